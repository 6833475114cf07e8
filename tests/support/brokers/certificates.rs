//! An authority of the test's own, and a server's certificate that it signed.
//!
//! In:    a folder.
//! Out:   `ca.pem`, `server.pem`, `server.key` in it, for `localhost` and 127.0.0.1.
//! Never: trusts what it made anywhere else.

use std::path::Path;
use std::process::{Command, Stdio};

/// Makes them, with the program `openssl`.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn make(folder: &Path) {
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
    std::fs::write(folder.join("names"), names).expect("a folder of our own");
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \
                     -keyout ca.key -out ca.pem",
    );
    openssl(
        folder,
        "req -newkey rsa:2048 -nodes -subj /CN=localhost \
                     -keyout server.key -out server.csr",
    );
    openssl(
        folder,
        "x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                     -extfile names -out server.pem",
    );
}

#[track_caller]
fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(arguments.split_whitespace());
    let done = command.stdin(Stdio::null()).output().expect("openssl is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {arguments}: {said}");
}
