//! Turns bytes into a comparison of the verdicts on one request head, cut in several ways.

use ringhall::http::{HeadLimits, HeadProgress, HeadVerdict, Refusal, Route, Upgrade, read_head};
use ringhall::limits;

use super::cuts;

/// The verdict does not depend on the cuts, and keeps its promises.
pub fn check(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let limits = HeadLimits { head_bytes: [200, 1000, 6000, 16 << 10][usize::from(choice % 4)] };
    let whole = read(bytes, 0, limits);
    for choice in [choice, 1] {
        let pieces = read(bytes, choice, limits);
        if pieces == whole {
            continue;
        }
        // A malformed head may be seen through early; its end has to bring the same refusal.
        assert!(matches!(whole, HeadVerdict::Refuse(_)), "{whole:?} but {pieces:?}");
        assert_eq!(pieces, HeadVerdict::Incomplete);
        assert_eq!(read(&[bytes, b"\n\n"].concat(), choice, limits), whole);
    }
    match &whole {
        HeadVerdict::Incomplete => {
            assert!(bytes.len() < limits.head_bytes, "waits beyond the limit");
        }
        HeadVerdict::Upgrade { request, consumed } => {
            check_parsed(&bytes[..*consumed], *consumed);
            check_upgrade(request);
            assert_eq!(read(&bytes[..*consumed], 0, limits), whole, "looked behind the head");
        }
        HeadVerdict::Plain => check_parsed(bytes, bytes.len()),
        HeadVerdict::Refuse(refusal) => check_refusal(refusal),
    }
}

fn read(bytes: &[u8], choice: u8, limits: HeadLimits) -> HeadVerdict {
    let mut progress = HeadProgress::default();
    for end in cuts(bytes.len(), choice) {
        match read_head(&bytes[..end], &mut progress, limits) {
            HeadVerdict::Incomplete => {}
            verdict => return verdict,
        }
    }
    HeadVerdict::Incomplete
}

/// What goes on to somebody has to be a whole head for an ordinary parser, too.
fn check_parsed(bytes: &[u8], len_max: usize) {
    let mut headers = [httparse::EMPTY_HEADER; limits::HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes);
    assert!(
        matches!(parsed, Ok(httparse::Status::Complete(len)) if len <= len_max),
        "let in: {parsed:?}"
    );
    let hosts = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let hosts = hosts.count();
    assert!(hosts == 1 || (hosts == 0 && request.version == Some(0)), "{hosts} hosts");
}

fn check_upgrade(request: &Upgrade) {
    assert_eq!(request.key.len(), 24);
    if let Route::Room { room, user, .. } = &request.route {
        for name in [&room.name, user] {
            assert!((1..=limits::NAME_BYTES_MAX).contains(&name.len()), "{name:?}");
            assert!(!name.chars().any(char::is_control), "{name:?}");
        }
        assert_ne!(&**user, "system");
    }
}

fn check_refusal(refusal: &Refusal) {
    let bytes = refusal.to_bytes();
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(&bytes) else {
        panic!("{refusal:?} is no response");
    };
    assert_eq!(response.code, Some(refusal.kind.status()));
    let body: serde_json::Value = serde_json::from_slice(&bytes[head..]).expect("a JSON body");
    assert_eq!(body["error"], refusal.kind.code());
}
