//! What the page and the API promise, asked of the router itself.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use backfill::storage::{ClaimRef, ClaimRequest, Outcome, Registration, Settlement, WorkerId};
use backfill::{BackfillClient, Job, JobSpec};
use backfill_admin::{Admin, Permission, Permissions, Principal, Redaction};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Every page and every resource that is read. `{id}` is a job's.
const READ: [&str; 18] = [
    "/overview",
    "/jobs",
    "/jobs?q=state:dead",
    "/jobs/{id}",
    "/queues",
    "/tasks",
    "/workers",
    "/crontabs",
    "/doctor",
    "/api/v1/",
    "/api/v1/jobs",
    "/api/v1/jobs/{id}",
    "/api/v1/jobs/{id}/why",
    "/api/v1/counts",
    "/api/v1/tasks",
    "/api/v1/queues",
    "/api/v1/workers",
    "/api/v1/crontabs",
];

/// Every route that changes something: method, path, body, and the permission that it takes.
const CHANGE: [(&str, &str, &str, Permission); 10] = [
    ("POST", "/jobs/{id}/run", "", Permission::Run),
    ("POST", "/jobs/{id}/discard", "reason=x", Permission::Discard),
    ("POST", "/jobs/{id}/delete", "", Permission::Delete),
    ("POST", "/jobs/act", "act=run&id={id}", Permission::Run),
    ("POST", "/jobs/act", "act=delete&id={id}", Permission::Delete),
    ("POST", "/workers/w/unlock", "confirm=w", Permission::Unlock),
    ("POST", "/api/v1/jobs/{id}/run", "", Permission::Run),
    ("POST", "/api/v1/jobs/{id}/discard", "", Permission::Discard),
    ("DELETE", "/api/v1/jobs/{id}", "", Permission::Delete),
    ("POST", "/api/v1/workers/w/unlock", "{\"confirm\":\"w\"}", Permission::Unlock),
];

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    Answer { status, headers, text: String::from_utf8_lossy(&bytes).into_owned() }
}

async fn get(router: &Router, path: &str) -> Answer {
    ask(router, Request::get(path).header("host", "localhost").body(Body::empty()).expect("a request")).await
}

async fn send(router: &Router, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a method")).uri(path);
    request = request.header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    ask(router, request.body(Body::from(body.to_owned())).expect("a request")).await
}

/// As the page's own forms do.
const OWN: [(&str, &str); 1] = [("sec-fetch-site", "same-origin")];

fn open(client: &BackfillClient) -> Router {
    Admin::new(client.clone()).open_to_everybody_who_gets_here().router()
}

fn may(client: &BackfillClient, permissions: impl IntoIterator<Item = Permission>) -> Router {
    let permissions: Permissions = permissions.into_iter().collect();
    Admin::new(client.clone()).principal(move |_| Some(Principal::new("ada", permissions.clone()))).router()
}

/// A worker, and a job that it holds.
async fn held(client: &BackfillClient, task: &str) -> (WorkerId, Job) {
    let consumer = client.storage().consumer();
    let worker = WorkerId::random();
    assert!(consumer.register(&Registration::new(&worker, &[task.to_owned()])).await.expect("register"));
    client.add(JobSpec::new(task, json!({})).priority(-99)).await.expect("add");
    let claimed =
        consumer.claim(&ClaimRequest::new(&worker, &[task.to_owned()], 1)).await.expect("claim").jobs.remove(0);
    (worker, claimed.job)
}

/// A dead job.
async fn dead(client: &BackfillClient, error: &str) -> Job {
    let consumer = client.storage().consumer();
    let worker = WorkerId::random();
    consumer.register(&Registration::new(&worker, &["fails".to_owned()])).await.expect("register");
    let job = client.add(JobSpec::new("fails", json!({})).priority(-99).max_attempts(1)).await.expect("add");
    let claimed =
        consumer.claim(&ClaimRequest::new(&worker, &["fails".to_owned()], 1)).await.expect("claim").jobs.remove(0);
    let settled = Settlement::new(ClaimRef::of(&claimed), Outcome::dead(error.to_owned()));
    consumer.settle(&worker, &[settled]).await.expect("settle");
    consumer.deregister(&worker).await.expect("deregister");
    job
}

fn filled(path: &str, job: &Job) -> String {
    path.replace("{id}", &job.id.to_string())
}

#[tokio::test]
async fn every_answer_carries_the_headers_and_no_page_runs_anything_of_its_own() {
    let client = BackfillClient::in_memory();
    let job = dead(&client, "no").await;
    let router = Admin::new(client).colour("#b00020").open_to_everybody_who_gets_here().router();
    let mut paths: Vec<String> = READ.iter().map(|path| filled(path, &job)).collect();
    paths.extend(
        ["/nothing", "/jobs/999", "/jobs/x", "/api/v1/nothing", "/api/v1/jobs?q=a:b", "/robots.txt"].map(str::to_owned),
    );
    for path in paths {
        let answer = get(&router, &path).await;
        let header = |name: &str| {
            answer.headers.get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
        };
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self';",
            "style-src 'self';",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("x-frame-options", "DENY"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(header(name), value, "{path} {name}");
        }
        if !header("content-type").starts_with("text/html") {
            continue;
        }
        let page = answer.text.to_lowercase();
        for own in [
            "<style",
            " style=",
            "javascript:",
            " onclick",
            " onload",
            " onerror",
            "href=\"/",
            "src=\"/",
            "action=\"/",
            "http://",
            "https://",
        ] {
            assert!(!page.contains(own), "{path} has {own}");
        }
        assert!(page.split("<script").skip(1).all(|script| script.starts_with(" src=")), "{path}");
    }
}

#[tokio::test]
async fn assets_are_kept_for_good_under_names_that_change_with_them() {
    let router = open(&BackfillClient::in_memory());
    let page = get(&router, "/overview").await.text;
    let names: Vec<&str> = page.split("./assets/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        let answer = get(&router, &format!("/assets/{name}")).await;
        assert_eq!(
            (answer.status, answer.headers["cache-control"].to_str().expect("text")),
            (StatusCode::OK, "public, max-age=31536000, immutable")
        );
    }
    assert_eq!(get(&router, "/assets/style.css").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_change_that_does_not_come_from_the_page_is_refused_unless_it_brings_a_token() {
    for (method, path, body, _) in CHANGE {
        let client = BackfillClient::in_memory();
        let job = dead(&client, "no").await;
        let router = open(&client);
        let (path, body) = (filled(path, &job), filled(body, &job));
        for headers in [
            &[][..],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
            &[("authorization", "Basic YTpi")],
        ] {
            let answer = send(&router, method, &path, &body, headers).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path} {headers:?}");
        }
        assert_eq!(client.job(job.id).await.expect("read").expect("there").last_error.as_deref(), Some("no"));
        for headers in [&OWN[..], &[("origin", "http://localhost")], &[("authorization", "Bearer x")]] {
            let answer = send(&router, method, &path, &body, headers).await;
            assert_ne!(answer.status, StatusCode::FORBIDDEN, "{method} {path} {headers:?}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn every_change_takes_its_permission_and_a_read_only_page_changes_nothing() {
    for (method, path, body, permission) in CHANGE {
        let client = BackfillClient::in_memory();
        let job = dead(&client, "no").await;
        let before = client.job(job.id).await.expect("read");
        let (path, body) = (filled(path, &job), filled(body, &job));
        let without = may(&client, Permission::ALL.into_iter().filter(|other| *other != permission));
        let read_only = Admin::new(client.clone()).read_only().open_to_everybody_who_gets_here().router();
        for router in [without, read_only] {
            let answer = send(&router, method, &path, &body, &OWN).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.text);
            assert_eq!(client.job(job.id).await.expect("read"), before, "{method} {path}");
        }
        let with = may(&client, [Permission::View, permission]);
        let answer = send(&with, method, &path, &body, &OWN).await;
        assert!(
            answer.status.is_success() || answer.status == StatusCode::SEE_OTHER,
            "{method} {path}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn nobody_sees_anything_without_being_known_or_without_the_permission() {
    let client = BackfillClient::in_memory();
    let job = dead(&client, "no").await;
    let unknown = Admin::new(client.clone()).principal(|_| None).router();
    let powerless = may(&client, []);
    for path in READ {
        assert_eq!(get(&unknown, &filled(path, &job)).await.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(get(&powerless, &filled(path, &job)).await.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_page_that_knows_its_names_answers_no_other() {
    let router = Admin::new(BackfillClient::in_memory())
        .hosts(["localhost", "[::1]"])
        .open_to_everybody_who_gets_here()
        .router();
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:8123", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1", 421),
    ] {
        let request = Request::get("/jobs").header("host", host).body(Body::empty()).expect("a request");
        assert_eq!(ask(&router, request).await.status.as_u16(), status, "{host}");
    }
    let nameless = Request::get("/jobs").body(Body::empty()).expect("a request");
    assert_eq!(ask(&router, nameless).await.status.as_u16(), 421);
}

#[tokio::test]
async fn a_redacted_value_is_nowhere_and_cannot_be_searched() {
    let client = BackfillClient::in_memory();
    let payload =
        json!({ "user": { "password": "geheim-1" }, "card": { "number": "geheim-2" }, "plain": "plainly-there" });
    let job = client.add(JobSpec::new("mail", payload)).await.expect("add");
    let router = Admin::new(client.clone())
        .redact(Redaction::defaults().path("card.number"))
        .open_to_everybody_who_gets_here()
        .router();
    for path in READ {
        let answer = get(&router, &filled(path, &job)).await;
        assert!(!answer.text.contains("geheim"), "{path}");
    }
    assert!(get(&router, &format!("/jobs/{}", job.id)).await.text.contains("plainly-there"));
    assert!(get(&router, &format!("/api/v1/jobs/{}", job.id)).await.text.contains("●●●●"));
    let ran = send(&router, "POST", &format!("/api/v1/jobs/{}/run", job.id), "", &OWN).await;
    assert!(ran.status.is_success() && !ran.text.contains("geheim"), "{}", ran.text);
    for q in ["payload.user.password:geheim*", "-payload.card.number:x", "payload.user.password.x:1"] {
        let q = q.replace(':', "%3A");
        assert_eq!(get(&router, &format!("/api/v1/jobs?q={q}")).await.status, StatusCode::FORBIDDEN, "{q}");
        assert!(get(&router, &format!("/jobs?q={q}")).await.text.contains("hidden here"), "{q}");
    }
    let viewer = may(&client, [Permission::View]);
    for path in READ {
        assert!(!get(&viewer, &filled(path, &job)).await.text.contains("plainly-there"), "{path}");
    }
    assert_eq!(get(&viewer, "/api/v1/jobs?q=payload.plain%3Aplainly-there").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn hostile_text_is_text() {
    let client = BackfillClient::in_memory();
    let hostile = "\"><script>alert(1)</script><img src=x onerror=alert(1)> \u{202e}\u{7} ' {{ 7 * 7 }}";
    let spec = JobSpec::new(hostile, json!({ hostile: hostile })).serial_queue(hostile).key(hostile);
    let job = client.add(spec).await.expect("add");
    dead(&client, hostile).await;
    let router = Admin::new(client).name(hostile).open_to_everybody_who_gets_here().router();
    let mut paths: Vec<String> = READ.iter().map(|path| filled(path, &job)).collect();
    let q = form_urlencoded::byte_serialize(hostile.as_bytes()).collect::<String>().replace('+', "%20");
    paths.extend([
        format!("/jobs?q=%22{q}"),
        format!("/jobs?q={q}&order={q}&after={q}"),
        format!("/queues?name={q}"),
        format!("/{q}"),
        format!("/jobs/{q}"),
    ]);
    for path in paths {
        let answer = get(&router, &path).await;
        if answer
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("text/html")))
        {
            assert!(!answer.text.contains("<script>") && !answer.text.contains("<img"), "{path}");
            // What a person has written in a search stays as it is, in its field.
            let is_own = path.contains("?q=") || path.contains("?name=");
            assert!(is_own || !answer.text.contains('\u{7}') && !answer.text.contains('\u{202e}'), "{path}");
        }
    }
}

#[tokio::test]
async fn a_search_goes_through_all_jobs_once_and_its_places_are_its_own() {
    let client = BackfillClient::in_memory();
    client.add_many((0..137).map(|n| JobSpec::new("bulk", json!({ "n": n, "big": n % 2 })))).await.expect("add");
    let router = open(&client);
    let mut after = String::new();
    let mut seen = Vec::new();
    let first = loop {
        let answer = get(&router, &format!("/api/v1/jobs?q=payload.big%3A1&limit=20&after={after}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let body = answer.json();
        seen.extend(body["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].as_i64().expect("an id")));
        match body["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break body["searched"].clone(),
        }
    };
    assert_eq!(first["complete"], true);
    let mut unique = seen.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!((seen.len(), unique.len()), (68, 68));
    let other = get(&router, &format!("/api/v1/jobs?q=payload.big%3A0&limit=20&after={after}")).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "a place of another search");
    assert_eq!(other.headers["content-type"], "application/problem+json");
    assert!(other.json()["detail"].as_str().expect("words").contains("take it from the page before"));
    for wrong in ["limit=0", "limit=501", "limit=x", "q=stat%3Adead", "order=best", &format!("q={}", "x".repeat(2_049))]
    {
        assert_eq!(get(&router, &format!("/api/v1/jobs?{wrong}")).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    for right in ["limit=1", "limit=500", "order=claim", &format!("q={}", "x".repeat(2_048))] {
        assert_eq!(get(&router, &format!("/api/v1/jobs?{right}")).await.status, StatusCode::OK, "{right}");
    }
    let page = get(&router, "/jobs?q=stat%3Adead").await;
    assert!(page.status.is_success() && page.text.contains("did you mean"), "what is wrong is said beside it");
}

#[tokio::test]
async fn numbers_in_payloads_keep_their_digits() {
    let client = BackfillClient::in_memory();
    let payload = backfill::Payload::from_json(r#"{"b":12345678901234567890.10,"a":1e2}"#).expect("JSON");
    let job = client
        .add(JobSpec::new("mail", payload.decode::<Box<serde_json::value::RawValue>>().expect("raw")))
        .await
        .expect("add");
    let router = open(&client);
    for path in [format!("/api/v1/jobs/{}", job.id), "/api/v1/jobs".to_owned()] {
        assert!(get(&router, &path).await.text.contains(r#"{"b":12345678901234567890.10,"a":1e2}"#), "{path}");
    }
    assert!(get(&router, &format!("/jobs/{}", job.id)).await.text.contains("12345678901234567890.10"));
}

#[tokio::test]
async fn jobs_are_run_discarded_and_deleted_and_what_a_worker_holds_is_left_alone() {
    let client = BackfillClient::in_memory();
    let router = open(&client);
    let job = dead(&client, "no").await;
    let ran = send(&router, "POST", &format!("/jobs/{}/run", job.id), "", &OWN).await;
    assert_eq!(
        (ran.status, ran.headers["location"].to_str().expect("text")),
        (StatusCode::SEE_OTHER, &*format!("../{}?done=run&changed=1&left=0", job.id))
    );
    assert_eq!(
        client.job(job.id).await.expect("read").expect("there").attempts,
        0,
        "a dead job gets its attempts anew"
    );
    let page = get(&router, &format!("/jobs/{}?done=run&changed=1&left=0", job.id)).await;
    assert!(page.text.contains("1 job is to run as soon as a worker is free."), "{}", page.text);

    send(&router, "POST", &format!("/api/v1/jobs/{}/discard", job.id), "{\"reason\":\"no use\"}", &OWN).await;
    let discarded = client.job(job.id).await.expect("read").expect("there");
    assert_eq!((discarded.attempts, discarded.last_error.as_deref()), (discarded.max_attempts, Some("no use")));

    let (worker, running) = held(&client, "long").await;
    for (method, path) in
        [("POST", format!("/api/v1/jobs/{}/run", running.id)), ("DELETE", format!("/api/v1/jobs/{}", running.id))]
    {
        let answer = send(&router, method, &path, "", &OWN).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
        assert!(answer.text.contains("a worker holds it"));
    }
    let ticked = format!("act=delete&id={}&id={}&back=q%3Dtask%253Along%26evil%3Dx", job.id, running.id);
    let both = send(&router, "POST", "/jobs/act", &ticked, &OWN).await;
    assert_eq!(both.headers["location"], "../jobs?q=task%3Along&done=delete&changed=1&left=1");
    assert!(client.job(job.id).await.expect("read").is_none() && client.job(running.id).await.expect("read").is_some());
    assert_eq!(
        send(&router, "DELETE", &format!("/api/v1/jobs/{}", job.id), "", &OWN).await.status,
        StatusCode::NOT_FOUND
    );

    let unsure = send(&router, "POST", &format!("/workers/{}/unlock", worker.as_str()), "confirm=no", &OWN).await;
    assert_eq!(unsure.status, StatusCode::BAD_REQUEST);
    let sure = send(
        &router,
        "POST",
        &format!("/workers/{}/unlock", worker.as_str()),
        &format!("confirm={}", worker.as_str()),
        &OWN,
    )
    .await;
    assert_eq!(sure.headers["location"], "../../workers?released=1");
    assert!(client.job(running.id).await.expect("read").expect("there").locked_by.is_none());
}

#[tokio::test]
async fn links_lead_where_they_should_under_any_prefix() {
    let client = BackfillClient::in_memory();
    let job = dead(&client, "no").await;
    let app = Router::new().nest_service("/ops/queue", open(&client));
    let nested = Router::new().nest("/ops/queue", open(&client));
    for (app, path, place) in [
        (&app, "/ops/queue", "queue/overview"),
        (&app, "/ops/queue/", "overview"),
        (&nested, "/ops/queue", "queue/overview"),
        (&open(&client), "/", "overview"),
    ] {
        let root = get(app, path).await;
        assert_eq!(root.headers[header::LOCATION], place, "{path}");
    }
    assert_eq!(get(&nested, "/ops/queue/overview").await.status, StatusCode::OK);
    for start in
        ["/ops/queue/overview", "/ops/queue/jobs", &format!("/ops/queue/jobs/{}", job.id), "/ops/queue/workers"]
    {
        let page = get(&app, start).await;
        assert_eq!(page.status, StatusCode::OK, "{start}");
        let links = ["href=\"", "src=\"", " action=\""].into_iter().flat_map(|mark| page.text.split(mark).skip(1));
        for link in links.filter_map(|rest| rest.split('"').next()).filter(|link| !link.starts_with('#')) {
            let link = link.replace("&amp;", "&");
            let base = &start[..=start.rfind('/').expect("a slash")];
            let mut parts: Vec<&str> = base.trim_matches('/').split('/').collect();
            let (path, query) = link.split_once('?').map_or((link.as_str(), ""), |(path, query)| (path, query));
            for part in path.split('/') {
                match part {
                    "." | "" => {}
                    ".." => drop(parts.pop()),
                    part => parts.push(part),
                }
            }
            let slash = if path.is_empty() || path.ends_with('/') { "/" } else { "" };
            let whole = format!("/{}{slash}{}{query}", parts.join("/"), if query.is_empty() { "" } else { "?" });
            let status = get(&app, &whole).await.status;
            assert!(matches!(status.as_u16(), 200 | 405), "{start}: {link} leads to {whole}: {status}");
        }
    }
}

#[tokio::test]
async fn a_file_has_the_same_pages() {
    let directory = tempfile::tempdir().expect("a directory");
    let client =
        BackfillClient::new(&format!("sqlite://{}", directory.path().join("jobs.db").display())).await.expect("a file");
    let job = dead(&client, "no").await;
    client.add(JobSpec::new("later", json!({})).run_in(Duration::from_secs(60)).serial_queue("q")).await.expect("add");
    let router = open(&client);
    for path in READ {
        let answer = get(&router, &filled(path, &job)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    }
    let counts = get(&router, "/api/v1/counts").await.json();
    assert_eq!(counts["jobs"]["dead"], json!({ "value": 1, "precision": "exact" }));
    assert!(client.storage().name().contains("jobs.db"));
}
