//! Roles that may not do what is needed.

use backfill::{BackfillClient, Error, JobSpec};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::support::{database, sql, unique};
use crate::unmigrated;

/// A role that may log in and nothing else, with a pool of its own.
async fn role(admin: &PgPool, url: &str) -> (String, PgPool) {
    let name = unique("role");
    sql(admin, "", &format!("create role {name} login")).await;
    let url = url.replace("//postgres@", &format!("//{name}@"));
    (name, PgPoolOptions::new().max_connections(3).connect(&url).await.expect("log in"))
}

#[tokio::test]
async fn missing_privileges_are_named_with_the_grant_that_gives_them() {
    let (admin, url) = database().await;
    let (name, mine) = role(&admin, &url).await;
    let grant_in = |error: &Error| match error {
        Error::MissingPrivilege { grant, .. } => grant.clone(),
        other => panic!("{other}"),
    };

    let error = BackfillClient::with_pool_and_schema(mine.clone(), "fresh").await.expect_err("may not create");
    let grant = grant_in(&error);
    assert!(grant.starts_with("grant create on database"), "{grant}");
    sql(&admin, "", &grant).await;
    let client = BackfillClient::with_pool_and_schema(mine.clone(), "fresh").await.expect("the grant was enough");
    client.add(JobSpec::new("t", 1)).await.expect("add");

    BackfillClient::with_pool_and_schema(admin.clone(), "theirs").await.expect("migrate");
    let error = unmigrated(&mine, "theirs").await.expect_err("may not look");
    let grant = grant_in(&error);
    assert!(grant.contains("grant usage") && grant.contains("bypassrls"), "nobody is sent round twice: {grant}");
    sql(&admin, "", &grant).await;
    let client = unmigrated(&mine, "theirs").await.expect("may look");
    let error = client.add(JobSpec::new("t", 1)).await.expect_err("may not add");
    let grant = grant_in(&error);
    assert!(grant.contains("grant insert, update on") && !grant.contains("delete"), "no more than is missing: {grant}");
    sql(&admin, "", &grant).await;
    sql(&admin, "", &format!("alter role {name} nobypassrls")).await;
    let error = client.add(JobSpec::new("t", 1)).await.expect_err("row-level security");
    assert!(grant_in(&error).contains("bypassrls"), "{error}");
    sql(&admin, "", &format!("alter role {name} bypassrls")).await;
    // Statements that a connection has planned already keep the old rule.
    let mine = PgPoolOptions::new().connect_with((*mine.connect_options()).clone()).await.expect("reconnect");
    let client = unmigrated(&mine, "theirs").await.expect("may look");
    client.add(JobSpec::new("t", 1)).await.expect("add");

    // A schema made for the role needs no right to create schemas.
    sql(&admin, "", &format!("revoke create on database {} from {name}", url.rsplit('/').next().expect("a name")))
        .await;
    sql(&admin, "", &format!("create schema made authorization {name}")).await;
    BackfillClient::with_pool_and_schema(mine, "made").await.expect("migrate in a schema made for it");
}
