//! Turns bytes into a comparison of `Utf8Stream` with the standard library.

use ringhall::ws::utf8::Utf8Stream;

use super::cuts;

/// Agrees with `std::str::from_utf8` at the end of every piece.
pub fn check(input: &[u8]) {
    let Some((&choice, text)) = input.split_first() else { return };
    for choice in [choice, 0, 1] {
        let mut stream = Utf8Stream::default();
        let mut from = 0;
        let mut refused = false;
        for to in cuts(text.len(), choice) {
            let truth = std::str::from_utf8(&text[..to]);
            let is_hopeless = truth.is_err_and(|error| error.error_len().is_some());
            refused = stream.push(&text[from..to]).is_err();
            assert_eq!(refused, is_hopeless, "{text:02x?} up to {to}");
            if refused {
                break;
            }
            from = to;
        }
        let valid = std::str::from_utf8(text).is_ok();
        assert_eq!(!refused && stream.finish().is_ok(), valid, "{text:02x?}");
    }
}
