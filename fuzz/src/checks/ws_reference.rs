//! Turns a client's bytes into events the slow and plain way: what RFC 6455 says, and no more.
//!
//! In:    all bytes at once.
//! Out:   the events, and the close code where the bytes break a rule.
//! Never: shares code with the decoder that it is compared with.

/// What a client's bytes mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message: whether it is text, and its bytes.
    Message(bool, Vec<u8>),
    /// A ping's payload.
    Ping(Vec<u8>),
    /// A pong's payload.
    Pong(Vec<u8>),
    /// A close frame's code and reason.
    Close(Option<(u16, String)>),
    /// The close code that answers a violation.
    Failed(u16),
}

struct Frame {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    len: u64,
    payload_at: usize,
}

/// Decodes everything.
pub fn decode(bytes: &[u8], message_bytes_max: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    if let Err(code) = decode_into(bytes, message_bytes_max as u64, &mut seen) {
        seen.push(Seen::Failed(code));
    }
    seen
}

fn decode_into(mut bytes: &[u8], max: u64, seen: &mut Vec<Seen>) -> Result<(), u16> {
    // The fragmented message: whether it is text, and its bytes so far.
    let mut message: Option<(bool, Vec<u8>)> = None;
    while let Some(frame) = header(bytes)? {
        let is_data = frame.opcode < 8;
        let collected = message.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
        match (frame.opcode, &message) {
            (0, None) | (1 | 2, Some(_)) => return Err(1002),
            (1 | 2, None) => message = Some((frame.opcode == 1, Vec::new())),
            _ => {}
        }
        if is_data && u128::from(collected) + u128::from(frame.len) > u128::from(max) {
            return Err(1009);
        }
        let rest = &bytes[frame.payload_at..];
        let whole = frame.len <= rest.len() as u64;
        let len = if whole { frame.len as usize } else { rest.len() };
        let payload: Vec<u8> =
            rest[..len].iter().enumerate().map(|(i, byte)| byte ^ frame.mask[i % 4]).collect();
        if is_data {
            let (is_text, text) = message.as_mut().expect("opened above");
            text.extend_from_slice(&payload);
            if *is_text && is_hopeless(text) {
                return Err(1007);
            }
            if whole && frame.fin {
                if *is_text && std::str::from_utf8(text).is_err() {
                    return Err(1007);
                }
                seen.extend(message.take().map(|(is_text, bytes)| Seen::Message(is_text, bytes)));
            }
        } else if whole {
            match frame.opcode {
                9 => seen.push(Seen::Ping(payload)),
                10 => seen.push(Seen::Pong(payload)),
                _ => {
                    seen.push(Seen::Close(close(&payload)?));
                    return Ok(());
                }
            }
        }
        if !whole {
            return Ok(());
        }
        bytes = &rest[len..];
    }
    Ok(())
}

fn is_hopeless(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_err_and(|error| error.error_len().is_some())
}

/// RFC 6455 section 5.2; what is wrong is wrong as soon as its byte is there.
fn header(bytes: &[u8]) -> Result<Option<Frame>, u16> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
    let is_control = opcode >= 8;
    if first & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) || (is_control && !fin) {
        return Err(1002);
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let short = second & 0x7f;
    if second & 0x80 == 0 || (is_control && short > 125) {
        return Err(1002);
    }
    let length_bytes = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if short == 127 && bytes.get(2).is_some_and(|byte| byte & 0x80 != 0) {
        return Err(1002);
    }
    if short == 127 && bytes.len() >= 8 && bytes[2..8].iter().all(|byte| *byte == 0) {
        return Err(1002);
    }
    let mask_at = 2 + length_bytes;
    if bytes.len() < mask_at {
        return Ok(None);
    }
    let len = match length_bytes {
        0 => u64::from(short),
        _ => bytes[2..mask_at].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
    };
    if short == 126 && len < 126 {
        return Err(1002);
    }
    let Some(mask) = bytes.get(mask_at..mask_at + 4) else { return Ok(None) };
    let mask = [mask[0], mask[1], mask[2], mask[3]];
    Ok(Some(Frame { fin, opcode, mask, len, payload_at: mask_at + 4 }))
}

/// RFC 6455 sections 5.5.1 and 7.4.
fn close(payload: &[u8]) -> Result<Option<(u16, String)>, u16> {
    match payload {
        [] => Ok(None),
        [_] => Err(1002),
        [high, low, reason @ ..] => {
            let code = u16::from(*high) << 8 | u16::from(*low);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(1002);
            }
            let reason = String::from_utf8(reason.to_vec()).map_err(|_| 1007_u16)?;
            Ok(Some((code, reason)))
        }
    }
}
