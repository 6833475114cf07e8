//! A test for each case and delivery, by one macro, so that no broker is spared any.
//!
//! In:    the name of a module, what runs a case, a delivery.
//! Out:   tests, named after what is promised.

/// The cases that every broker and every delivery has to stand, a test each, named after what is
/// promised: `cluster_cases! { ordered: run(Delivery::Ordered); }`.
macro_rules! cluster_cases {
    ($($name:ident: $run:ident($delivery:expr);)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn nothing_is_missed_while_all_is_well() {
                $run($delivery, Case::Steady);
            }

            #[test]
            fn a_slow_broker_loses_nothing_and_one_too_slow_is_left_alone() {
                $run($delivery, Case::Slow);
            }

            #[test]
            fn a_box_that_is_cut_off_longer_than_another_counts_what_it_missed() {
                $run($delivery, Case::CutOff);
            }

            #[test]
            fn the_members_of_a_killed_box_leave_and_its_successor_is_welcome() {
                $run($delivery, Case::NodeKilled);
            }

            #[test]
            fn a_broker_that_stands_still_is_noticed_and_found_again() {
                $run($delivery, Case::Paused);
            }

            #[test]
            fn presence_is_of_the_cluster_and_no_outage_changes_it() {
                $run($delivery, Case::Presence);
            }

            #[test]
            fn a_broker_that_was_killed_may_come_back_empty() {
                $run($delivery, Case::KilledEmpty);
            }
        }
    )* };
}
