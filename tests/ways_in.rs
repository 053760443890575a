//! URLs and logins that lead in, or say at once why not.

mod support;

use backfill::{BackfillClient, Error, storage};
use support::{database, soon, unique};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// The address of the database without its user.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, rest)| rest))
}

async fn refused(url: &str) -> Error {
    // It is told at once: nothing here is waited for.
    soon("it is refused", BackfillClient::new(url)).await.expect_err("it is refused")
}

#[tokio::test]
async fn a_url_without_a_user_logs_in_as_the_operating_systems() {
    let (_admin, url) = database().await;
    let me = whoami::username().expect("a name");
    if std::env::var_os("PGUSER").is_some() {
        eprintln!("left out: PGUSER is set");
        return;
    }
    match soon("it is answered", BackfillClient::new(&without_user(&url))).await {
        Ok(client) => {
            let pool = client.postgres().expect("PostgreSQL").pool().clone();
            let role: String = sqlx::query_scalar("select current_user::text").fetch_one(&pool).await.expect("ask");
            assert_eq!(role, me);
        }
        Err(error) => {
            assert!(matches!(&error, Error::LoginRefused { role, .. } if *role == me), "{error}");
            let told = error.to_string();
            let why =
                "because it is the operating system's user, and neither the database URL nor PGUSER names another";
            assert!(told.contains(&format!("as the role {me:?}")) && told.contains(why), "{told}");
        }
    }
}

#[tokio::test]
async fn whom_the_server_lets_not_in_is_told_at_once_with_the_remedy() {
    let (_admin, url) = database().await;
    let nobody = unique("nobody");
    let as_nobody = url.replacen("://", &format!("://{nobody}:sekret@"), 1).replacen("@postgres@", "@", 1);
    let told = refused(&as_nobody).await;
    assert!(matches!(&told, Error::LoginRefused { role, .. } if *role == nobody), "{told}");
    let told = told.to_string();
    assert!(told.contains("name another") && !told.contains("sekret") && !told.contains("operating"), "{told}");
    let (server, _) = url.rsplit_once('/').expect("a database");
    let told = refused(&format!("{server}/{}", unique("none"))).await.to_string();
    assert!(told.contains("SQLSTATE 3D000") && told.contains("create it (createdb \"none"), "{told}");
}

#[tokio::test]
async fn encryption_that_cannot_come_is_refused_at_once_with_the_remedy() {
    let (_admin, url) = database().await;
    for query in ["sslmode=require", "ssl=true", "sslmode=verify-ca"] {
        let told = refused(&format!("{url}?{query}")).await;
        assert!(matches!(told, Error::EncryptionRefused { .. }), "{told}");
        let remedy =
            if cfg!(feature = "tls-rustls") { "switch TLS on at the server" } else { "`tls-rustls` of backfill" };
        // What `main() -> Result` prints.
        let told = format!("{told:?}");
        assert!(told.contains(remedy) && told.contains("cannot be encrypted as was asked for"), "{told}");
    }
}

#[tokio::test]
async fn an_address_of_ipv6_is_reached() {
    let (_admin, url) = database().await;
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        eprintln!("left out: there is no IPv6");
        return;
    };
    let port = listener.local_addr().expect("an address").port();
    let (_, rest) = url.split_once('@').expect("a user");
    let (server, database) = rest.split_once('/').expect("a database");
    let server = server.to_owned();
    let proxy = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.expect("the server");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let opened = soon("it is reached", storage::open(&format!("postgres://postgres@[::1]:{port}/{database}"))).await;
    assert!(opened.is_ok(), "{:?}", opened.err());
    proxy.abort();
}
