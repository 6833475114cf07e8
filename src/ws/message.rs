//! Turns received bytes into messages and control frames.
//!
//! In:    what one receive brought, cut anywhere.
//! Out:   `Step`: how much was consumed, and at most one `Event`.
//! Never: answers anything, copies a frame that lies whole in the input, or trusts a length.
//!
//! # Invariants
//! - An assembler is one pointer; it is null unless a frame or a message is incomplete.
//! - The events do not depend on how the bytes were cut.
//! - Held bytes follow what arrived, never what was announced.

use super::close::{Violation, parse_close};
use super::frame::{Header, Opcode, SHORT_HEADER_BYTES, parse_header, short_message};
use super::mask::unmask;
use super::remainder::{Done, Remainder};

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8; the assembler has checked it.
    Text,
    /// Any bytes.
    Binary,
}

/// Something complete.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message, its fragments put together.
    Message {
        /// What it is made of.
        kind: Kind,
        /// Its bytes, unmasked.
        bytes: &'a mut [u8],
    },
    /// A ping, to be answered with the same bytes.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// The closing handshake, with code and reason where the peer gave any. Whatever follows is
    /// to be ignored.
    Close(Option<(u16, &'a str)>),
}

/// What one call of [`Assembler::decode`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes of the input that are dealt with; at least 1 unless the input was empty.
    pub consumed: usize,
    /// The event that ends there; without one, the whole input was consumed.
    pub event: Option<Event<'a>>,
    /// The event is one frame, and that lies whole in the consumed part of the input: its payload
    /// at the end, its header in front of it.
    pub in_place: bool,
}

/// What a connection remembers between two receives.
#[derive(Debug, Default)]
pub struct Assembler {
    partial: Option<Box<Remainder>>,
}

const _: () = assert!(size_of::<Assembler>() == 8, "an idle connection owns no buffer");

pub(super) const NOT_UTF8: Violation = Violation::utf8("text that is not UTF-8");

impl Assembler {
    /// Consumes input up to and including one event, or all of it.
    ///
    /// `message_bytes_max` bounds a message, all its fragments together.
    ///
    /// # Errors
    /// What the peer did wrong. The connection has to be closed; the assembler is of no more use.
    #[inline]
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> Result<Step<'a>, Violation> {
        self.settle();
        if self.partial.is_none() {
            if let Some(header) = short_message(input)
                && header.len <= message_bytes_max as u64
            {
                return decode_whole(input, &header, SHORT_HEADER_BYTES);
            }
            let Some((header, payload_at)) = parse_header(input)? else {
                return self.assemble(input, message_bytes_max);
            };
            check_order(header.opcode, false)?;
            check_size(&header, 0, message_bytes_max)?;
            if header.fin && header.len <= (input.len() - payload_at) as u64 {
                return decode_whole(input, &header, payload_at);
            }
        }
        self.assemble(input, message_bytes_max)
    }

    /// Drops what the last event was borrowed from. Call it when the input is used up.
    #[inline]
    pub fn settle(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial.drop_spent();
            if partial.is_empty() {
                self.partial = None;
            }
        }
    }

    /// Bytes of memory held for an incomplete message or frame, for the process's budget.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    /// Whether nothing is incomplete.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.partial.as_ref().is_none_or(|partial| partial.is_settled_empty())
    }

    /// Appends the state, in a form that [`Assembler::read`] understands.
    pub fn write(&self, out: &mut Vec<u8>) {
        match &self.partial {
            Some(partial) if !partial.is_settled_empty() => {
                out.push(1);
                partial.write(out);
            }
            _ => out.push(0),
        }
    }

    /// Reads what [`Assembler::write`] wrote, and moves `input` behind it; else `None`.
    #[must_use]
    pub fn read(input: &mut &[u8]) -> Option<Self> {
        let (&tag, rest) = input.split_first()?;
        *input = rest;
        match tag {
            0 => Some(Self::default()),
            1 => Some(Self { partial: Some(Box::new(Remainder::read(input)?)) }),
            _ => None,
        }
    }

    /// The way of whatever is cut or fragmented.
    fn assemble<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> Result<Step<'a>, Violation> {
        if input.is_empty() {
            return Ok(Step { consumed: 0, event: None, in_place: false });
        }
        let partial = self.partial.get_or_insert_default();
        let (consumed, done) = partial.assemble(input, message_bytes_max)?;
        let event = match done {
            Done::Nothing => None,
            Done::Message => Some(partial.message()),
            Done::Control(opcode) => Some(control(opcode, partial.control())?),
            Done::ControlInPlace(opcode, range) => Some(control(opcode, &input[range])?),
        };
        Ok(Step { consumed, event, in_place: false })
    }
}

/// The common case: an unfragmented frame that lies whole in the input.
#[inline]
fn decode_whole<'a>(
    input: &'a mut [u8],
    header: &Header,
    payload_at: usize,
) -> Result<Step<'a>, Violation> {
    let consumed = payload_at + header.len as usize;
    let bytes = &mut input[payload_at..consumed];
    unmask(bytes, header.mask, 0);
    let event = match header.opcode {
        Opcode::Text if simdutf8::basic::from_utf8(bytes).is_err() => return Err(NOT_UTF8),
        Opcode::Text => Event::Message { kind: Kind::Text, bytes },
        Opcode::Binary => Event::Message { kind: Kind::Binary, bytes },
        opcode => control(opcode, bytes)?,
    };
    Ok(Step { consumed, event: Some(event), in_place: true })
}

fn control(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    Ok(match opcode {
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        _ => Event::Close(parse_close(payload)?),
    })
}

/// Whether a frame may come now.
pub(super) fn check_order(opcode: Opcode, message_is_open: bool) -> Result<(), Violation> {
    match opcode {
        // RFC 6455 section 5.4: "A fragmented message consists of a single frame with the FIN bit
        // clear and an opcode other than 0, followed by zero or more frames with the FIN bit clear
        // and the opcode set to 0".
        Opcode::Continuation if !message_is_open => {
            Err(Violation::protocol("a continuation of no message"))
        }
        // RFC 6455 section 5.4: "The fragments of one message MUST NOT be interleaved between the
        // fragments of another message".
        Opcode::Text | Opcode::Binary if message_is_open => {
            Err(Violation::protocol("a new message inside a fragmented one"))
        }
        _ => Ok(()),
    }
}

/// Whether a frame's payload still fits its message, judged before a byte of it has come.
pub(super) fn check_size(
    header: &Header,
    collected: usize,
    message_bytes_max: usize,
) -> Result<(), Violation> {
    let room = message_bytes_max.saturating_sub(collected) as u64;
    if !header.opcode.is_control() && header.len > room {
        return Err(Violation::too_big("a message longer than this server takes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::client::{Seen, decode, decode_cut, feed, frame};
    use super::*;

    const MAX: usize = 64 << 10;

    fn failed_with(seen: &[Seen]) -> Option<u16> {
        match seen.last() {
            Some(Seen::Failed(violation)) => Some(violation.code),
            _ => None,
        }
    }

    #[test]
    fn events_do_not_depend_on_how_the_bytes_are_cut() {
        let text = "gr\u{fc}\u{df} \u{20ac} \u{1f600}".as_bytes();
        let binary = [0xff, 0x00, 0x80].repeat(60);
        let input = [
            frame(true, Opcode::Text, text),
            frame(true, Opcode::Ping, b"are you there"),
            frame(false, Opcode::Text, &text[..4]),
            frame(true, Opcode::Pong, b""),
            frame(false, Opcode::Continuation, b""),
            frame(true, Opcode::Ping, &[7; 125]),
            frame(true, Opcode::Continuation, &text[4..]),
            frame(true, Opcode::Binary, &binary),
            frame(false, Opcode::Binary, &[]),
            frame(true, Opcode::Continuation, &[]),
            frame(true, Opcode::Text, b""),
            frame(true, Opcode::Close, &[b"\x03\xe8", text].concat()),
            frame(true, Opcode::Text, b"behind the close: ignored"),
        ]
        .concat();
        let expected = vec![
            Seen::Text(text.to_vec()),
            Seen::Ping(b"are you there".to_vec()),
            Seen::Pong(vec![]),
            Seen::Ping(vec![7; 125]),
            Seen::Text(text.to_vec()),
            Seen::Binary(binary),
            Seen::Binary(vec![]),
            Seen::Text(vec![]),
            Seen::Close(Some((1000, String::from_utf8(text.to_vec()).unwrap()))),
        ];
        assert_eq!(decode(&input, MAX), expected);
    }

    #[test]
    fn long_lengths_are_decoded_wherever_their_header_is_cut() {
        for len in [125_usize, 126, 0xffff, 0x1_0000] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let input = frame(true, Opcode::Binary, &payload);
            let expected = [Seen::Binary(payload)];
            for cut in (0..20).chain([8192, input.len() - 1]).filter(|cut| *cut <= input.len()) {
                assert_eq!(decode_cut(&input, &[cut], 1 << 20), expected, "{len} cut at {cut}");
            }
            let reads: Vec<usize> = (0..input.len()).step_by(999).collect();
            assert_eq!(decode_cut(&input, &reads, 1 << 20), expected);
        }
    }

    #[test]
    fn fragments_out_of_order_are_1002() {
        let open = frame(false, Opcode::Text, b"a");
        let shut = frame(true, Opcode::Continuation, b"b");
        for input in [
            frame(true, Opcode::Continuation, b"x"),
            frame(false, Opcode::Continuation, b"x"),
            [&*open, &frame(true, Opcode::Text, b"x")].concat(),
            [&*open, &frame(false, Opcode::Binary, b"x")].concat(),
            [&*open, &shut, &shut].concat(),
        ] {
            assert_eq!(failed_with(&decode(&input, MAX)), Some(1002));
        }
    }

    #[test]
    fn headers_that_break_the_protocol_are_1002_before_and_inside_a_message() {
        let open = frame(false, Opcode::Binary, b"a");
        for bad in [
            &[0xc2, 0x80][..],
            &[0x83, 0x80],
            &[0x82, 0x00],
            &[0x89, 0xfe],
            &[0x09, 0x80],
            &[0x80, 0xfe, 0, 125],
            &[0x80, 0xff, 0x80],
        ] {
            assert_eq!(failed_with(&decode(bad, MAX)), Some(1002), "{bad:02x?}");
            let inside = [&*open, bad].concat();
            assert_eq!(failed_with(&decode(&inside, MAX)), Some(1002), "{bad:02x?}");
        }
    }

    #[test]
    fn bad_close_frames_are_refused_also_when_they_are_cut() {
        for (payload, code) in [(&b"\x03"[..], 1002), (b"\x03\xed", 1002), (b"\x03\xe8\xff", 1007)]
        {
            let input = frame(true, Opcode::Close, payload);
            assert_eq!(failed_with(&decode(&input, MAX)), Some(code), "{payload:02x?}");
        }
        assert_eq!(decode(&frame(true, Opcode::Close, b""), MAX), [Seen::Close(None)]);
    }

    #[test]
    fn the_limit_is_hit_at_n_plus_one_and_before_the_payload_comes() {
        for len in [MAX - 1, MAX, MAX + 1] {
            let input = frame(true, Opcode::Binary, &vec![1; len]);
            let whole = decode_cut(&input, &[], MAX);
            let header_alone = decode_cut(&input[..input.len() - len], &[], MAX);
            if len > MAX {
                assert_eq!(failed_with(&whole), Some(1009));
                assert_eq!(failed_with(&header_alone), Some(1009));
            } else {
                assert_eq!(whole, [Seen::Binary(vec![1; len])]);
                assert_eq!(header_alone, []);
            }
        }
    }

    #[test]
    fn the_limit_counts_all_fragments_of_a_message_together() {
        for last in [3_usize, 4, 5] {
            let input = [
                frame(false, Opcode::Binary, &[1; 4]),
                frame(false, Opcode::Continuation, &[2; 2]),
                frame(true, Opcode::Ping, &[3; 100]),
                frame(true, Opcode::Continuation, &vec![4; last]),
            ]
            .concat();
            let seen = decode(&input, 10);
            assert_eq!(failed_with(&seen), (last == 5).then_some(1009), "{last}");
        }
    }

    #[test]
    fn a_length_near_2_to_the_63_does_not_get_round_the_limit() {
        let mut huge = vec![0x80, 0xff, 0x7f];
        huge.extend_from_slice(&[0xff; 11]);
        let input = [frame(false, Opcode::Binary, &[0; 10]), huge].concat();
        assert_eq!(failed_with(&decode(&input, usize::MAX >> 2)), Some(1009));
    }

    #[test]
    fn bad_utf8_in_an_unfinished_frame_is_refused_at_once() {
        // Autobahn 6.4.1 to 6.4.4.
        let text = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited";
        let input = frame(true, Opcode::Text, text);
        let header_len = input.len() - text.len();
        let mut assembler = Assembler::default();
        let mut seen = Vec::new();
        assert!(feed(&mut assembler, &input[..header_len + 12], MAX, &mut seen));
        assert!(!feed(&mut assembler, &input[header_len + 12..=header_len + 12], MAX, &mut seen));
        assert_eq!(failed_with(&seen), Some(1007));

        let input = [
            frame(false, Opcode::Text, &text[..12]),
            frame(false, Opcode::Continuation, &text[12..13]),
        ]
        .concat();
        assert_eq!(failed_with(&decode(&input, MAX)), Some(1007));
    }

    #[test]
    fn a_character_may_span_fragments_but_not_the_end_of_a_message() {
        let euro = "\u{20ac}".as_bytes();
        for cut in 1..3 {
            let first = frame(false, Opcode::Text, &euro[..cut]);
            let rest = frame(true, Opcode::Continuation, &euro[cut..]);
            assert_eq!(decode(&[&*first, &rest].concat(), MAX), [Seen::Text(euro.to_vec())]);
            let nothing = frame(true, Opcode::Continuation, b"");
            assert_eq!(failed_with(&decode(&[first, nothing].concat(), MAX)), Some(1007));
            let ends = frame(true, Opcode::Text, &euro[..cut]);
            assert_eq!(failed_with(&decode(&ends, MAX)), Some(1007));
        }
    }

    #[test]
    fn binary_is_not_checked() {
        let input = frame(true, Opcode::Binary, b"\xff\xfe");
        assert_eq!(decode(&input, MAX), [Seen::Binary(b"\xff\xfe".to_vec())]);
    }

    #[test]
    fn a_whole_frame_is_borrowed_from_the_input_and_leaves_nothing() {
        let mut input = frame(true, Opcode::Text, b"hello");
        let payload_at = input[6..].as_ptr();
        let mut assembler = Assembler::default();
        let step = assembler.decode(&mut input, MAX).unwrap();
        let Some(Event::Message { bytes, .. }) = step.event else { panic!("no message") };
        assert_eq!(bytes.as_ptr(), payload_at, "copied");
        assert_eq!(assembler.held_bytes(), 0);
        assert!(assembler.is_idle());
    }

    #[test]
    fn nothing_is_held_once_nothing_is_incomplete() {
        let input = [
            frame(false, Opcode::Text, b"one"),
            frame(true, Opcode::Ping, b"ping"),
            frame(true, Opcode::Continuation, b"two"),
            frame(true, Opcode::Pong, b"pong"),
        ]
        .concat();
        for cut in 0..=input.len() {
            let mut assembler = Assembler::default();
            let mut seen = Vec::new();
            assert!(feed(&mut assembler, &input[..cut], MAX, &mut seen));
            assert_eq!(assembler.is_idle(), assembler.held_bytes() == 0, "cut at {cut}");
            assert!(feed(&mut assembler, &input[cut..], MAX, &mut seen));
            assert!(assembler.is_idle() && assembler.held_bytes() == 0, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_announced_costs_nothing_before_it_comes() {
        let mut assembler = Assembler::default();
        let mut seen = Vec::new();
        let input = frame(true, Opcode::Binary, &vec![0; 16 << 20]);
        assert!(feed(&mut assembler, &input[..14 + 10], 16 << 20, &mut seen));
        assert!(assembler.held_bytes() <= size_of::<Remainder>() + 16, "{assembler:?}");
        assert!(size_of::<Remainder>() <= 160, "what each half-received message costs beside it");
    }

    #[test]
    fn memory_doubles_up_to_the_limit_and_to_the_message_where_its_end_is_known() {
        let max = 100_000;
        for fin in [true, false] {
            let input = frame(fin, Opcode::Binary, &vec![0; 90_000]);
            let bound = if fin { 90_000 } else { max };
            let mut assembler = Assembler::default();
            let (mut seen, mut grown, mut held) = (Vec::new(), 0, 0);
            for piece in input[..input.len() - 1].chunks(100) {
                assert!(feed(&mut assembler, piece, max, &mut seen));
                grown += usize::from(assembler.held_bytes() != held);
                held = assembler.held_bytes();
                assert!(held <= bound + size_of::<Remainder>(), "{held}");
            }
            assert!(grown < 20, "{grown} times: not amortised");
        }
    }

    #[test]
    fn tiny_and_empty_fragments_cost_no_memory_of_their_own() {
        // CVE-2026-48779 and ws issue 2331: 100 bytes held a fragment, whatever its size.
        let empty = frame(false, Opcode::Continuation, b"");
        let tiny = frame(false, Opcode::Continuation, b"x");
        let mut assembler = Assembler::default();
        let mut seen = Vec::new();
        assert!(feed(&mut assembler, &frame(false, Opcode::Text, b""), MAX, &mut seen));
        assert!(feed(&mut assembler, &empty.repeat(100_000), MAX, &mut seen));
        assert!(assembler.held_bytes() <= size_of::<Remainder>());
        assert!(feed(&mut assembler, &tiny.repeat(16_000), MAX, &mut seen));
        assert!(assembler.held_bytes() <= size_of::<Remainder>() + 32_000);
        assert!(feed(&mut assembler, &frame(true, Opcode::Continuation, b"x"), MAX, &mut seen));
        assert_eq!(seen, [Seen::Text(vec![b'x'; 16_001])]);
    }

    #[test]
    fn an_endless_fragmented_message_ends_at_the_limit() {
        // CVE-2026-42786: only frames were limited, never the message.
        let fragment = frame(false, Opcode::Continuation, &[0; 100]);
        let mut assembler = Assembler::default();
        let mut seen = Vec::new();
        assert!(feed(&mut assembler, &frame(false, Opcode::Binary, b""), MAX, &mut seen));
        let taken = (0..).take_while(|_| feed(&mut assembler, &fragment, MAX, &mut seen)).count();
        assert_eq!((taken, failed_with(&seen)), (MAX / 100, Some(1009)));
    }

    #[test]
    fn a_limit_lowered_inside_a_message_refuses_its_next_frame() {
        let mut assembler = Assembler::default();
        let mut seen = Vec::new();
        let first = frame(false, Opcode::Binary, &[0; 100]);
        assert!(feed(&mut assembler, &first[..50], 1000, &mut seen));
        assert!(feed(&mut assembler, &first[50..], 10, &mut seen), "the frame had been let in");
        assert!(!feed(&mut assembler, &frame(true, Opcode::Continuation, b"x"), 10, &mut seen));
        assert_eq!(failed_with(&seen), Some(1009));
    }

    #[test]
    fn an_empty_input_is_no_step() {
        let mut assembler = Assembler::default();
        let nothing = Step { consumed: 0, event: None, in_place: false };
        assert_eq!(assembler.decode(&mut [], MAX), Ok(nothing));
        assert!(assembler.is_idle());
    }

    #[test]
    fn every_reason_fits_a_close_frame() {
        let bad_utf8 = frame(true, Opcode::Text, b"\xff");
        let bad_close = frame(true, Opcode::Close, b"\x03\xe8\xff");
        let orphan = frame(true, Opcode::Continuation, b"");
        let big = frame(true, Opcode::Binary, &[0; 11]);
        for bad in [
            &[0xc2][..],
            &[0x83],
            &[0x82, 0],
            &[0x89, 0xfe],
            &[0x09],
            &[0x82, 0xff, 0x80],
            &[0x82, 0xfe, 0, 1],
            &bad_utf8,
            &bad_close,
            &orphan,
            &big,
        ] {
            let seen = decode_cut(bad, &[], 10);
            let [Seen::Failed(violation)] = &*seen else { panic!("{bad:02x?}: {seen:?}") };
            assert!((1..=123).contains(&violation.what.len()), "{violation:?}");
        }
    }
}
