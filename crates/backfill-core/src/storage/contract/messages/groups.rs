//! Cases about groups: serial queues that are taken in line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::{Subject, add, add_one};
use super::{LINE, LONG, apply, depth, in_line, lease, message, messages, must_apply, number, numbers, receipt};
use crate::job::JobSpec;
use crate::storage::Outcome;
use crate::storage::messages::{Hold, Unit};

fn of(group: &str, n: i64) -> JobSpec {
    message(n).serial_queue(group)
}

async fn done(storage: &Subject, hold: Hold) {
    must_apply(storage, Unit::new().settle(hold, Outcome::completed())).await;
}

/// Several in one take, and a message without a group is a group by itself.
pub async fn several_messages_of_a_group_are_taken_in_order(storage: Subject) {
    add(&storage, vec![of("g", 1), of("g", 2), of("g", 3), message(4)]).await;
    assert_eq!(numbers(&in_line(&storage, 2, LONG).await), [1, 2]);
    let plain = lease(&storage, LINE, 9, Duration::ZERO).await;
    assert_eq!(numbers(&plain), [4], "nor does somebody else get 3 who does not ask for groups");
    messages(&storage).end_leases(None).await.expect("end");
    assert_eq!(numbers(&in_line(&storage, 9, LONG).await), [4], "3 is behind what is held");
    assert_eq!(depth(&storage).await, [1, 0, 3]);
}

/// Whether the holder is alive or its lease has ended: an ended one comes first again.
pub async fn nothing_behind_a_held_message_is_taken(storage: Subject) {
    add(&storage, (1..=4).map(|n| of("g", n)).collect()).await;
    let taken = in_line(&storage, 2, LONG).await;
    done(&storage, taken[1].hold.clone()).await;
    assert!(in_line(&storage, 9, LONG).await.is_empty(), "the first one is held still");
    done(&storage, taken[0].hold.clone()).await;
    let taken = in_line(&storage, 1, LONG).await;
    assert_eq!(numbers(&taken), [3]);
    must_apply(&storage, Unit::new().settle(taken[0].hold.clone(), Outcome::requeued(Duration::ZERO))).await;
    let taken = in_line(&storage, 1, Duration::ZERO).await;
    assert_eq!(numbers(&taken), [3], "it is first again");
    // Nobody has looked for its end, and it is taken all the same, before what is behind it.
    let taken = in_line(&storage, 9, LONG).await;
    assert_eq!(numbers(&taken), [3, 4]);
    assert_eq!(receipt(&taken[0]).number, 3);
    // What comes earlier in the line is not behind what is held.
    add_one(&storage, of("g", 0).priority(-1)).await;
    assert_eq!(numbers(&in_line(&storage, 9, LONG).await), [0]);
}

/// Those from which nothing was taken for longest come first.
pub async fn groups_take_turns(storage: Subject) {
    add(&storage, ["a", "a", "a", "b", "b", "c"].iter().zip(0..).map(|(group, n)| of(group, n)).collect()).await;
    let mut order = Vec::new();
    for _ in 0..6 {
        let taken = in_line(&storage, 1, LONG).await;
        order.extend(numbers(&taken));
        done(&storage, taken[0].hold.clone()).await;
    }
    assert_eq!(order, [0, 3, 5, 1, 4, 2]);
    // All that one take touches has one turn: then the line's order decides.
    add(&storage, vec![of("b", 7), of("a", 8)]).await;
    let taken = in_line(&storage, 9, LONG).await;
    assert_eq!(taken.len(), 2);
    for job in taken {
        done(&storage, job.hold).await;
    }
    add(&storage, vec![of("a", 9), of("b", 10)]).await;
    assert_eq!(numbers(&in_line(&storage, 9, LONG).await), [9, 10]);
}

/// However long its backlog is.
pub async fn a_held_group_hides_no_other(storage: Subject) {
    add(&storage, (0..1_500).map(|n| of("held", n)).collect()).await;
    assert_eq!(numbers(&in_line(&storage, 1, LONG).await), [0]);
    add(&storage, vec![of("free", -1), of("free", -2), message(-3)]).await;
    assert_eq!(numbers(&in_line(&storage, 2, LONG).await), [-1, -2]);
    assert_eq!(numbers(&in_line(&storage, 2, LONG).await), [-3]);
    assert!(in_line(&storage, 2, LONG).await.is_empty());
}

/// 8 takers, 10 groups of 20; a tenth of the takes is abandoned, and of some only a part is done: no gap, no inversion.
pub async fn groups_keep_their_order_under_contention_and_expiries(storage: Subject) {
    const GROUPS: i64 = 10;
    const EACH: i64 = 20;
    let specs = (0..GROUPS * EACH).map(|n| of(&format!("g{}", n % GROUPS), n));
    add(&storage, specs.collect()).await;
    let done: Arc<Mutex<HashMap<i64, Vec<i64>>>> = Arc::default();
    let mut takers = JoinSet::new();
    for _ in 0..8 {
        let (storage, done) = (storage.clone(), done.clone());
        takers.spawn(async move {
            while depth(&storage).await != [0, 0, 0] {
                let is_abandoned = fastrand::u8(..10) == 0;
                let taken =
                    in_line(&storage, 1 + fastrand::usize(..6), if is_abandoned { Duration::ZERO } else { LONG });
                let taken = taken.await;
                if is_abandoned {
                    continue;
                }
                let keep = fastrand::usize(..=taken.len());
                for (place, job) in taken.iter().enumerate() {
                    let n = number(job);
                    if place < keep.max(1) {
                        // While the message is held nobody else writes to its group's list.
                        done.lock().expect("lock").entry(n % GROUPS).or_default().push(n);
                        let unit = Unit::new().settle(job.hold.clone(), Outcome::completed());
                        assert!(apply(&storage, unit).await.is_done(), "a lease that had not ended was broken");
                    } else {
                        messages(&storage).renew(&[(receipt(job), Duration::ZERO)]).await.expect("renew");
                    }
                }
                tokio::task::yield_now().await;
            }
        });
    }
    takers.join_all().await;
    let done = done.lock().expect("lock");
    for (group, order) in &*done {
        let expected: Vec<i64> = (0..EACH).map(|n| n * GROUPS + group).collect();
        assert_eq!(*order, expected, "group {group}");
    }
    assert_eq!(done.len(), 10);
}

/// Taken one at a time, too: much more of one group than a take looks at stands in front, held or not.
pub async fn a_group_with_much_behind_its_first_hides_no_other(storage: Subject) {
    add(&storage, (0..700).map(|n| of("much", n)).collect()).await;
    add(&storage, vec![of("b", 700), message(701), of("c", 702).priority(-1), of("b", 703), message(704)]).await;
    let taken = lease(&storage, LINE, 4, LONG).await;
    let mut all = numbers(&taken);
    all.extend(numbers(&lease(&storage, LINE, 9, LONG).await));
    assert!(all[..4].contains(&0) && all[..4].contains(&702), "the first of the line: {all:?}");
    all.sort_unstable();
    assert_eq!(all, [0, 700, 701, 702, 704], "the others are behind held ones");
    assert_eq!(lease(&storage, LINE, 9, LONG).await, []);
    let first = taken.iter().find(|job| number(job) == 0).expect("taken").hold.clone();
    must_apply(&storage, Unit::new().settle(first, Outcome::completed())).await;
    assert_eq!(numbers(&lease(&storage, LINE, 9, LONG).await), [1]);
}
