//! The recorded input of `benches/recorded/` is what its recipe makes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

/// Frames of a recording.
const FRAMES: u8 = 16;

/// A client's frame, short enough for one byte of length.
fn frame(number: u8, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [number + 1, 0x5a, 0xc3, 0x96];
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap()];
    assert!(payload.len() <= 125);
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn raw(number: u8) -> Vec<u8> {
    let payload: Vec<u8> =
        (0..64_u8).map(|i| number.wrapping_mul(31).wrapping_add(i.wrapping_mul(7))).collect();
    frame(number, 2, &payload)
}

fn json(number: u8) -> Vec<u8> {
    let letters: String = (number..number + 40).map(|i| char::from(b'a' + i % 26)).collect();
    let text = format!(r#"{{"content":"message {number}: {letters}","ref":{number}}}"#);
    frame(number, 1, text.as_bytes())
}

#[test]
fn the_recorded_frames_are_what_their_recipe_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/recorded");
    let all = |make: fn(u8) -> Vec<u8>| (0..FRAMES).flat_map(make).collect::<Vec<u8>>();
    for (name, bytes) in [
        ("raw.frames", all(raw)),
        ("json.frames", all(json)),
        ("close.frames", frame(0, 8, &1000_u16.to_be_bytes())),
    ] {
        let path = folder.join(name);
        if std::env::var_os("RECORD_INPUT").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
    }
}
