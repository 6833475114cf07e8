//! The sleep flag of a shard, under a model checker that tries every order of its steps.
//!
//! Why this test must never be deleted: a lost wake-up is a shard that sleeps on its mail. It shows
//! once in millions of turns, as a hang, and no soak finds it.

/// The model checker's atomics, in place of the machine's.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/mesh/bell.rs"]
#[expect(dead_code, reason = "waking up has no part in the race")]
mod bell;

use bell::Bell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

/// Whether the receiver slept, and whether it was rung, in every order of the two sides' steps.
fn race(look_again: bool) -> Vec<(bool, bool)> {
    let outcomes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = outcomes.clone();
    loom::model(move || {
        let (bell, mail) = (Arc::new(Bell::default()), Arc::new(AtomicBool::new(false)));
        let sender = {
            let (bell, mail) = (bell.clone(), mail.clone());
            thread::spawn(move || {
                mail.store(true, Ordering::Release);
                bell.must_ring()
            })
        };
        let early = mail.load(Ordering::Acquire);
        bell.fall_asleep();
        let late = look_again && mail.load(Ordering::Acquire);
        let slept = !early && !late;
        let rung = sender.join().expect("the sender does not panic");
        seen.lock().expect("nobody panics with it").push((slept, rung));
    });
    outcomes.lock().expect("nobody panics with it").clone()
}

#[test]
fn nobody_sleeps_on_mail_without_being_rung() {
    let outcomes = race(true);
    assert!(outcomes.len() > 1, "the model has more than one order");
    for (slept, rung) in outcomes {
        assert!(rung || !slept, "mail was lost: the receiver slept and was not rung");
    }
}

/// The look before falling asleep is not enough: this shows that the checker would find it.
#[test]
fn without_a_second_look_mail_is_lost() {
    assert!(race(false).into_iter().any(|(slept, rung)| slept && !rung));
}
