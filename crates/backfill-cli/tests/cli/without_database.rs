//! Commands that need no database.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Ran, binary};

#[tokio::test]
async fn crontabs_are_checked_without_a_database() {
    let directory = TempDir::new().expect("a directory");
    let check = |text: &'static str, args: &'static [&'static str]| {
        let file = directory.path().join("crontab");
        std::fs::write(&file, text).expect("write");
        let mut command = binary(directory.path());
        command.args(["crontab", "check", "crontab"]).args(args);
        async move { Ran::from(command.output().await.expect("it runs")) }
    };
    let good = "# dialect: extended\n0 4 * * MON report ?fill=1d&tz=Europe/Berlin\n# dialect: graphile\n*/15 * * * * sync ?id=s\n0 0 31 2 * never";
    let told = check(good, &["--next", "2"]).await.ok();
    let lines: Vec<&str> = told.lines().collect();
    assert!(
        lines[1].starts_with("report") && lines[1].contains("0 4 * * 1 Europe/Berlin") && lines[1].contains("Mon 20"),
        "{told}"
    );
    assert!(lines[3].ends_with("never"), "{told}");
    let told = check(good, &["--json", "--next", "5"]).await.json();
    assert_eq!(told["entries"][1]["next"].as_array().map(Vec::len), Some(5));
    assert_eq!((&told["entries"][0]["fill_seconds"], &told["entries"][1]["identifier"]), (&json!(86_400), &json!("s")));
    assert_eq!(check("# nothing", &[]).await.ok(), "no entries\n");

    let bad = check("60 * * * * a\n* * * * * b ?max=0 {]}", &[]).await;
    assert_eq!(bad.status, Some(1));
    assert!(
        bad.out.starts_with("crontab: line 1, column 1: \"60\" is too large") && bad.out.lines().count() == 3,
        "{}",
        bad.out
    );
    let bad = check("60 * * * * a", &["--json"]).await;
    assert_eq!(bad.status, Some(1));
    let told: Value = serde_json::from_str(&bad.out).expect("JSON");
    assert_eq!((&told["problems"][0]["line"], &told["problems"][0]["text"]), (&json!(1), &json!("60")));
}

#[tokio::test]
async fn help_and_completions_are_there_for_everything() {
    let directory = TempDir::new().expect("a directory");
    let run = |args: Vec<String>| {
        let mut command = binary(directory.path());
        command.args(args);
        async move { Ran::from(command.output().await.expect("it runs")).ok() }
    };
    let help = run(vec!["--help".to_owned()]).await;
    assert!(help.contains("Exit status: 0 success, 1 failure, 2 usage error, 3"), "{help}");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<String> =
        commands.map(|line| line.split_whitespace().next().expect("a name").to_owned()).collect();
    assert_eq!(commands.len(), 25, "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        let told = run(vec![command.clone(), "--help".to_owned()]).await;
        assert!(told.contains("Usage: backfill"), "{told}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(vec!["completions".to_owned(), shell.to_owned()]).await.contains("crontabs"), "{shell}");
    }
    assert!(run(vec!["--version".to_owned()]).await.starts_with("backfill 4."));
    let page = run(vec!["man".to_owned()]).await;
    for command in &commands {
        let listed = page.contains(&format!("backfill\\-{}(1)", command.replace('-', "\\-")));
        assert_eq!(listed, command != "help", "{command}: {page}");
    }
    assert!(page.contains("Exit status: 0 success"), "{page}");
    assert!(run(vec!["man".to_owned(), "worker".to_owned()]).await.contains("fter how long without a heartbeat"));
    run(vec!["man".to_owned(), "--all".to_owned(), ".".to_owned()]).await;
    for command in commands.iter().filter(|command| *command != "help") {
        assert!(directory.path().join(format!("backfill-{command}.1")).exists(), "{command}");
    }
}
