//! Random histories beside a model of what a lease is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Subject, add, admin};
use super::{LINE, LONG, apply, lease, message, messages, receipt};
use crate::job::JobId;
use crate::storage::messages::{Hold, Receipt, Unit};
use crate::storage::{Outcome, Reschedule};

/// What a message is, for whoever knows the rules.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    /// Nobody holds it; who held it last, if its number of attempts is still that claim's.
    Ready {
        last: Option<Receipt>,
    },
    Held {
        by: Receipt,
        has_ended: bool,
    },
    Gone,
}

/// What the model says of one call that shows a receipt.
fn stands(is: Is, shown: Receipt, late: bool) -> bool {
    match is {
        Is::Ready { last } => late && last.is_some_and(|last| last.number == shown.number),
        Is::Held { by, has_ended } => by == shown && (late || !has_ended),
        Is::Gone => false,
    }
}

/// So many histories of takes, renewals, ends, settlements and an administrator's resets, each call by a receipt that somebody once had:
/// what stands is what the model says, and no two leases are ever one.
///
/// # Panics
/// When the contract is broken.
pub async fn random_histories(storage: Subject, histories: u32) {
    for history in 0..histories {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut model: BTreeMap<JobId, Is> = add(&storage, (0..3).map(message).collect())
            .await
            .iter()
            .map(|job| (job.id, Is::Ready { last: None }))
            .collect();
        let mut shown: Vec<Receipt> = Vec::new();
        for step in 0..24 {
            let told = format!("history {history}, seed {seed}, step {step}: {model:?}");
            let of_lease = |zero: bool| if zero { Duration::ZERO } else { LONG };
            let some = (!shown.is_empty()).then(|| shown[rng.usize(..shown.len())]);
            match (rng.u8(..12), some) {
                (0..=3, _) | (_, None) => {
                    let zero = rng.bool();
                    let limit = rng.usize(1..=3);
                    let taken = lease(&storage, LINE, limit, of_lease(zero)).await;
                    let ready = model.values().filter(|is| matches!(is, Is::Ready { .. })).count();
                    assert_eq!(taken.len(), limit.min(ready), "{told}");
                    for job in &taken {
                        let by = receipt(job);
                        assert!(!shown.contains(&by), "{told}");
                        assert!(matches!(model[&by.id], Is::Ready { .. }), "{told}");
                        model.insert(by.id, Is::Held { by, has_ended: zero });
                        shown.push(by);
                    }
                }
                (4 | 5, Some(some)) => {
                    let zero = rng.bool();
                    let renewed = messages(&storage).renew(&[(some, of_lease(zero))]).await.expect("renew");
                    let expected = matches!(model[&some.id], Is::Held { .. }) && stands(model[&some.id], some, false);
                    assert_eq!(!renewed.is_empty(), expected, "{some}; {told}");
                    if expected {
                        model.insert(some.id, Is::Held { by: some, has_ended: zero });
                    }
                }
                (6 | 7, _) => {
                    let mut ended = messages(&storage).end_leases(None).await.expect("end").jobs;
                    ended.sort_unstable();
                    let mut expected = Vec::new();
                    for (id, is) in &mut model {
                        if let Is::Held { by, has_ended: true } = *is {
                            expected.push(*id);
                            *is = Is::Ready { last: Some(by) };
                        }
                    }
                    assert_eq!(ended, expected, "{told}");
                }
                (8..=10, Some(some)) => {
                    let (late, is_done) = (rng.bool(), rng.u8(..4) == 0);
                    let outcome = if is_done { Outcome::completed() } else { Outcome::requeued(Duration::ZERO) };
                    let unit = Unit::new().settle(Hold::Lease { receipt: some, late }, outcome);
                    let expected = stands(model[&some.id], some, late);
                    assert_eq!(apply(&storage, unit).await.is_done(), expected, "{some} late {late}; {told}");
                    if expected {
                        model.insert(some.id, if is_done { Is::Gone } else { Is::Ready { last: Some(some) } });
                    }
                }
                (_, Some(some)) => {
                    // An administrator sets the attempts of a free message back.
                    let reset = Reschedule::new().attempts(0);
                    let changed = admin(&storage).reschedule(&[some.id], &reset).await.expect("reschedule");
                    let is_free = matches!(model[&some.id], Is::Ready { .. });
                    assert_eq!(!changed.is_empty(), is_free, "{told}");
                    if is_free {
                        model.insert(some.id, Is::Ready { last: None });
                    }
                }
            }
        }
        // The next history begins with an empty line.
        messages(&storage).purge(LINE, crate::storage::messages::Purge::All).await.expect("purge");
    }
}
