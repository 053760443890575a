//! Calls whose rows a trigger of the user's changes or leaves out.

use crate::pair::{Pair, Rows};
use crate::spec;
use crate::support;

/// What a trigger does to new jobs that is called `t`.
const TRIGGERS: [(&str, &str); 7] = [
    ("drops the row", "return null;"),
    ("changes the key", "new.key := new.key || '-' || new.priority; return new;"),
    ("takes the key away", "new.key := null; return new;"),
    ("gives a key", "new.key := coalesce(new.key, 'given'); return new;"),
    ("locks the row", "new.locked_at := now(); new.locked_by := 'w'; return new;"),
    ("makes the job dead", "new.attempts := new.max_attempts; return new;"),
    ("drops some rows", "if new.key = 'k1' then return null; end if; return new;"),
];

#[tokio::test]
async fn what_a_trigger_makes_of_a_job_never_keeps_a_call_from_ending() {
    let mut pair = Pair::new().await;
    for (what, body) in TRIGGERS {
        for event in ["insert", "insert or update"] {
            println!("a trigger that {what} before {event}");
            pair.set(&format!(
                "truncate S._private_jobs restart identity;
                 create or replace function S.t() returns trigger language plpgsql as $$ begin {body} end $$;
                 drop trigger if exists t on S._private_jobs;
                 create trigger t before {event} on S._private_jobs for each row execute function S.t()"
            ))
            .await;
            let both = |n: i32| {
                let keyed = spec(&format!("'a', '{n}', 'q', null, null, 'k{n}', {n}, null"));
                let plain = spec(&format!("'a', '{n}', null, null, null, null, {n}, null"));
                format!("select * from S.add_jobs(array[{keyed}, {plain}])")
            };
            for call in [
                "select * from S.add_job('a', job_key := 'k')".to_owned(),
                "select * from S.add_job('a', job_key := 'k', job_key_mode := 'preserve_run_at')".to_owned(),
                "select * from S.add_job('a', job_key := 'k', job_key_mode := 'unsafe_dedupe')".to_owned(),
                "select * from S.add_job('a')".to_owned(),
                both(1),
                both(1),
                both(2),
            ] {
                let compared = pair.compare(&call, Rows::WithoutNumbers);
                support::soon(what, compared).await;
            }
        }
    }
}
