//! URLs that are read, and those that are refused without showing their secrets.

use super::*;

async fn refused(url: &str) -> String {
    open(url).await.unwrap_err().to_string()
}

#[tokio::test]
async fn the_scheme_decides_and_an_unknown_one_is_refused_without_showing_the_rest() {
    assert_eq!(open("memory:").await.unwrap().storage().name(), "memory");
    let error = refused("mysql://root:secret@host/db").await;
    assert!(error.contains("\"mysql\"") && error.contains("sqlite://") && !error.contains("secret"), "{error}");
    assert!(refused("jobs.db").await.contains("no scheme"));
    assert!(refused(":memory:").await.contains("no scheme"));
    assert!(refused("").await.contains("is empty, perhaps because a variable is"));
    assert!(refused("memory:jobs").await.contains("memory:"));
    assert!(!refused("postgres://u:secret@host:port/db").await.contains("secret"));
    let named = OpenOptions::default().schema("s").open(&Backend::of("memory:").unwrap()).await;
    assert!(named.unwrap_err().to_string().contains("no schemas"));
}

#[test]
fn every_scheme_of_the_table_is_read_and_shown_without_a_secret() {
    for scheme in TABLE.iter().flat_map(|row| row.schemes) {
        let url = if *scheme == "memory" { "memory:".to_owned() } else { format!("{scheme}://u:secret@h/d") };
        let read = Backend::of(&url);
        assert!(!format!("{read:?}").contains("secret"), "{scheme}");
    }
}

#[test]
fn a_storage_that_is_not_compiled_in_says_which_feature_it_is() {
    assert!(without("sqlite").to_string().contains("switch the feature `sqlite` of backfill on"));
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_file_is_opened_by_its_url() {
    assert_eq!(open("sqlite://no/such/jobs.db").await.unwrap().storage().name(), "SQLite, file no/such/jobs.db");
    assert!(refused("sqlite::memory:").await.contains("use memory:"));
    assert!(refused("sqlite://jobs.db?mode=ro").await.contains("only be read"));
    assert!(refused("sqlite://jobs.db?nonsense=1").await.contains("cannot be read"));
}
