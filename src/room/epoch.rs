//! Names a room's numbering, so that offsets of two numberings are never mixed up.
//!
//! In:    a source of randomness at start, a counter.
//! Out:   at most 32 letters and digits, never the same twice.
//! Never: means anything to a reader.

/// The name of one numbering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch(Box<str>);

impl Epoch {
    /// A name that came from elsewhere; `None` where it is none: 1 to 32 ASCII letters and digits.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let fits = (1..=32).contains(&name.len());
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (fits && plain).then(|| Self(name.into()))
    }

    /// The name as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Makes epochs: a random start of the process, the shard, a counter.
#[derive(Debug)]
pub struct Epochs {
    prefix: String,
    next: u64,
}

impl Epochs {
    /// `seed` is random and the same for all shards of the process.
    #[must_use]
    pub fn new(seed: u64, shard: u16) -> Self {
        Self { prefix: format!("{}s{}", base36(seed.into()), base36(shard.into())), next: 0 }
    }

    /// A new name.
    pub fn next_epoch(&mut self) -> Epoch {
        self.next += 1;
        Epoch(format!("{}n{}", self.prefix, base36(self.next.into())).into_boxed_str())
    }
}

/// A number in the digits of epochs, `0` to `z`; 25 of them hold 2^128 - 1.
#[must_use]
pub fn base36(mut number: u128) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36).unwrap_or(0);
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_epoch_is_at_most_32_letters_and_digits() {
        let mut epochs = Epochs { next: u64::MAX - 1, ..Epochs::new(u64::MAX, u16::MAX) };
        let longest = epochs.next_epoch();
        // A counter of 2^53 rooms is out of reach; beyond it the name would grow past the bound.
        assert!(longest.as_str().len() <= 32, "{}", longest.as_str());
        assert!(longest.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn a_name_from_elsewhere_is_1_to_32_letters_and_digits() {
        let longest = "a".repeat(32);
        for name in ["7", "s1n2", &longest] {
            assert_eq!(Epoch::parse(name).as_ref().map(Epoch::as_str), Some(name));
        }
        for name in ["", "a-b", "\u{e9}", &format!("{longest}a")] {
            assert_eq!(Epoch::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_largest_number_has_25_digits() {
        assert_eq!(base36(u128::MAX), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!((base36(0), base36(35), base36(36)), ("0".into(), "z".into(), "10".into()));
    }

    #[test]
    fn two_epochs_differ() {
        let mut epochs = Epochs::new(7, 0);
        assert_ne!(epochs.next_epoch(), epochs.next_epoch());
        assert_ne!(Epochs::new(7, 1).next_epoch(), Epochs::new(7, 0).next_epoch());
    }
}
