//! Where the limit on open files is what binds, the number of connections that is promised is the
//! number after which newcomers are refused.

mod support;

use support::promise::{Fill, expect_within_a_tenth, raise_own_files};
use support::{Bystander, Server};

#[test]
fn what_open_files_allow_is_what_comes_in() {
    raise_own_files();
    let server = Server::start_limited("-n 1000", &["--shards", "2"]);
    let promise = support::promise::logged(&server);
    assert_eq!(promise.bounded_by, "the shards' tables (RLIMIT_NOFILE)");
    let mut bystander = Bystander::join(server.address(), "room");
    let fill = Fill::until_refused(&server, 3000);
    assert_eq!(fill.refusal, "full");
    expect_within_a_tenth(fill.members + 1, promise.connections);
    bystander.heard();
}

#[test]
fn the_number_of_shards_counts() {
    raise_own_files();
    let server = Server::start_limited("-n 400", &["--shards", "5"]);
    let promise = support::promise::logged(&server);
    let fill = Fill::until_refused(&server, 3000);
    expect_within_a_tenth(fill.members, promise.connections);
}
