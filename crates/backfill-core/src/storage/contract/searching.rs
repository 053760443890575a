//! Cases about searching and counting.

use std::time::Duration;

use super::{Subject, TASK, add, add_one, claim_one, failed, inspect, register, settle, spec};
use crate::job::{Job, JobId, JobSpec};
use crate::search::{Order, Pattern, Place, Query, Search};
use crate::storage::{Effort, JobFilter, Number, Outcome, Precision, QueueList};

/// Jobs for a search: some in each state, of two tasks, with queues, keys, flags and payloads.
async fn searchable(storage: &Subject) -> Vec<Job> {
    let worker = register(storage).await;
    let with = |task: &str, customer: u64| {
        let payload = serde_json::json!({
            "customer": { "id": customer, "name": format!("ada {customer}") }, "total": customer * 10, "tags": ["a", "b"]
        });
        JobSpec::new(task, payload)
    };
    add_one(storage, with(TASK, 1).max_attempts(1).priority(-9)).await;
    let job = claim_one(storage, &worker).await;
    settle(storage, &worker, &job, Outcome::dead("Connection REFUSED by 100%_of\\it".to_owned())).await;
    add_one(storage, with(TASK, 2).priority(-8)).await;
    let job = claim_one(storage, &worker).await;
    settle(storage, &worker, &job, failed("timeout", Duration::from_secs(900))).await;
    add_one(storage, with(TASK, 3).flag("slow")).await;
    claim_one(storage, &worker).await;
    add(
        storage,
        vec![
            with("send_mail", 4).key("order-4").serial_queue("account 7"),
            with("send_mail", 5).key("order_5").serial_queue("account 8").priority(3),
            with("sendXmail", 6).run_in(Duration::from_secs(3600)),
            with("send_mail", 7).flag("slow").flag("big").priority(-1).run_in(Duration::from_secs(60)),
            JobSpec::new("send_mail", "text alone").priority(3),
            JobSpec::new("send_mail", serde_json::json!([7, { "a": "7.0" }])),
            JobSpec::new("send_mail", serde_json::json!({ "a.b": "say \"hi\" to C:\\", "": 1, "n": null, "o": {} })),
        ],
    )
    .await;
    inspect(storage).jobs(&JobFilter::new()).await.expect("list")
}

/// Whatever is asked for, a storage finds what [`Query::matches`] says of each job, in each order, and page by page.
pub async fn a_search_finds_what_its_terms_say(storage: Subject) {
    let jobs = searchable(&storage).await;
    let now = storage.now().await.expect("the time");
    for text in [
        "",
        "state:ready",
        "state:dead",
        "state:retrying",
        "state:running",
        "state:scheduled",
        "-state:ready",
        "state:dead,retrying task:contract",
        "task:send_*",
        "task:send_mail,sendXmail -task:sendX*",
        "task:nobody",
        "task:nobody*",
        "-task:send_mail",
        "queue:\"account 7\"",
        "queue:\"account \"*",
        "-queue:*",
        "-queue:\"account 7\"",
        "queue:nowhere",
        "key:order-4",
        "key:order_*",
        "-key:order_*",
        "key:nothing",
        "worker:*",
        "-worker:*",
        "error:refused",
        "error:\"100%_OF\\\\IT\"",
        "-error:refused",
        "flag:slow",
        "flag:slow -flag:big",
        "priority:<0",
        "priority:3",
        "attempts:>=1",
        "-attempts:>=1",
        "created:<1h",
        "created:>1h",
        "due:<0s",
        "due:>10m",
        "-due:>10m",
        "payload.customer.id:4",
        "payload.customer.id:4.0",
        "payload.customer.id:>=5",
        "payload.customer.id:2..4 -payload.customer.id:3",
        "-payload.customer.id:>=5",
        "payload.customer.name:ada*",
        "payload.customer.name:\"ada 6\"",
        "payload.customer:*",
        "payload.customer:4",
        "payload.tags.1:b",
        "payload.0:7",
        "payload.1.a:7",
        "payload:text*",
        "payload:\"text alone\"",
        "payload.\"a.b\":\"say \\\"hi\\\" to C:\\\\\"",
        "payload.n:*",
        "payload.o:*",
        "send_mail",
        "order-4",
        "send* payload.total:>40 -state:scheduled",
    ] {
        let query: Query = text.parse().expect(text);
        for order in Order::ALL {
            let expected = Search::new(query.clone()).order(order).among(&jobs, now).jobs;
            let expected: Vec<JobId> = expected.iter().map(|job| job.id).collect();
            for limit in [2, 100] {
                let mut search = Search::new(query.clone()).order(order).limit(limit);
                let mut found = Vec::new();
                loop {
                    let page = inspect(&storage).search(&search).await.expect(text);
                    assert!(page.jobs.len() <= limit as usize);
                    for job in &page.jobs {
                        assert!(jobs.contains(job), "{text}: whole jobs come");
                    }
                    found.extend(page.jobs.iter().map(|job| job.id));
                    let Some(next) = page.next else { break };
                    search = search.after(Some(next));
                }
                assert_eq!(found, expected, "{text:?} in the order {order:?} by {limit}");
            }
        }
    }
    let ids = jobs.iter().map(|job| job.id.number());
    let (first, last) = (ids.clone().min().expect("some"), ids.max().expect("some"));
    let query: Query = format!("id:>{first} id:<{last} -id:{}", first + 1).parse().expect("ids");
    assert_eq!(inspect(&storage).search(&Search::new(query)).await.expect("search").jobs.len(), jobs.len() - 3);
}

/// Who has little time is told how far the storage has looked, goes on from there, and misses nothing.
pub async fn a_search_with_a_budget_goes_on_where_it_stopped(storage: Subject) {
    let spec = |n: i16| JobSpec::new("bulk", serde_json::json!({ "n": n % 350 })).priority(n % 3);
    add(&storage, (0..700).map(spec).collect()).await;
    for order in Order::ALL {
        let query: Query = "payload.n:7".parse().expect("a query");
        let mut search = Search::new(query).order(order).limit(5).budget(Duration::ZERO).without_payloads();
        let (mut found, mut looked_at, mut pages) = (0, 0, 0);
        loop {
            let page = inspect(&storage).search(&search).await.expect("search");
            found += page.jobs.len();
            looked_at += page.looked_at;
            pages += 1;
            assert!(pages <= 700, "each page gets further");
            assert!(page.jobs.iter().all(|job| job.payload == crate::job::Payload::empty()));
            let Some(next) = page.next else { break };
            assert_ne!(search.after, Some(next), "each page gets further");
            search = search.after(Some(next));
        }
        assert_eq!((found, looked_at), (2, 700), "{order:?}");
    }
}

/// A place of another order is no place.
pub async fn a_search_refuses_a_place_of_another_order(storage: Subject) {
    let job = add_one(&storage, spec()).await;
    let search = Search::new(Query::all()).order(Order::Claim).after(Some(Place::of(&job, Order::Newest)));
    let error = inspect(&storage).search(&search).await.expect_err("another order's place");
    assert!(matches!(error, crate::error::Error::InvalidSearch { .. }), "{error}");
}

/// Where there are few jobs, a bounded look is as good as any.
pub async fn few_jobs_are_counted_exactly_within_any_bound(storage: Subject) {
    searchable(&storage).await;
    let inspect = inspect(&storage);
    let (exact, bounded) = (inspect.tally(Effort::Exact).await, inspect.tally(Effort::Bounded).await);
    let tally = bounded.expect("tally");
    assert_eq!(tally, exact.expect("tally"));
    assert_eq!((tally.total(), tally.dead), (Number::exact(10), Number::exact(1)));
    let tasks = inspect.tasks(Effort::Bounded).await.expect("tasks");
    assert_eq!(tasks, inspect.tasks(Effort::Exact).await.expect("tasks"));
    let workers = inspect.workers(Effort::Bounded).await.expect("workers");
    assert_eq!(
        workers.iter().map(|worker| (worker.jobs, worker.precision)).collect::<Vec<_>>(),
        [(1, Precision::Exact)]
    );
    let names = async |list: QueueList| {
        let queues = inspect.queues(&list).await.expect("queues");
        assert!(queues.iter().all(|queue| queue.jobs.total() == 1 && queue.precision == Precision::Exact));
        queues.into_iter().map(|queue| queue.name).collect::<Vec<_>>()
    };
    let all = || QueueList::all(Effort::Bounded);
    assert_eq!(names(all()).await, ["account 7", "account 8"]);
    assert_eq!(names(all().limit(1)).await, ["account 7"]);
    assert_eq!(names(all().after(Some("account 7".to_owned())).limit(5)).await, ["account 8"]);
    assert_eq!(names(all().name(Some(Pattern::of("*t 8")))).await, ["account 8"]);
}
