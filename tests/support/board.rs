//! The Grafana board that is shipped, and what it asks Prometheus.
//!
//! In:    `tuning/grafana/ringhall.json`.
//! Out:   its JSON; its queries.
//! Never: knows what a query means.

use serde_json::Value;

/// The board.
///
/// # Panics
/// If it is no JSON.
pub fn board() -> Value {
    serde_json::from_str(include_str!("../../tuning/grafana/ringhall.json")).expect("JSON")
}

/// Every `expr`, `query` and `definition` of it.
///
/// # Panics
/// If there are so few that it was not understood.
pub fn queries() -> Vec<String> {
    let mut found = Vec::new();
    collect(&board(), &mut found);
    assert!(found.len() > 50, "the board was understood: {} queries", found.len());
    found
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("expr" | "query" | "definition", Value::String(query)) => {
                        found.push(query.clone());
                    }
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}
