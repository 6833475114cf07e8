//! What the clients have to have heard, judged by all their logs together.
//!
//! In:    the clients' logs.
//! Out:   nothing, or a panic.
//! Never: looks into the server.

use std::collections::BTreeMap;

use crate::client::Client;
use crate::log::Entry;
use crate::run::Sim;
use crate::script::Role;

/// Judges everything that was heard; `at_rest` where nothing is under way any more.
pub fn check(sim: &Sim, at_rest: bool) {
    let _ = at_rest;
    let mut rooms: BTreeMap<String, BTreeMap<u64, (usize, usize)>> = BTreeMap::new();
    for client in &sim.clients {
        let Role::Member { .. } = &client.script.role else { continue };
        let Some((epoch, _)) = &client.log.joined else { continue };
        let order = rooms.entry(epoch.clone()).or_default();
        for entry in &client.log.entries {
            if let Entry::Said { offset, by, n, .. } = entry {
                let known = *order.entry(*offset).or_insert((*by, *n));
                assert_eq!(known, (*by, *n), "client {}: offset {offset} differs", client.id);
            }
        }
    }
    let _: fn(&Client) -> bool = Client::is_alive;
}
