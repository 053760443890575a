//! What URLs, services and variables mean.

use super::*;

/// With these variables and no others (but for those that the driver reads itself).
fn with(url: Option<&str>, variables: &[(&str, &str)]) -> Result<PgConnectOptions> {
    let found = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Settings::gather(url, &found)?.options()
}

fn read(url: &str) -> PgConnectOptions {
    with(Some(url), &[]).unwrap()
}

fn mode(url: &str) -> String {
    format!("{:?}", read(url).get_ssl_mode())
}

fn refused(url: &str) -> String {
    with(Some(url), &[]).unwrap_err().to_string()
}

#[test]
fn nodes_ways_to_ask_for_encryption_are_heard() {
    assert_eq!(mode("postgres://u@h/d?sslmode=no-verify"), "Require");
    assert_eq!(mode("postgres://u@h/d?ssl=true"), "VerifyFull");
    assert_eq!(mode("postgres://u@h/d?ssl=1&sslmode=require"), "Require", "the mode is more exact");
    assert_eq!(mode("postgres://u@h/d?ssl=no-verify&application_name=x"), "Require");
    assert_eq!(mode("postgres://u@h/d?ssl=0"), "Disable");
    assert_eq!(mode("postgres://u@h/d?sslmode=verify-ca"), "VerifyCa");
    assert_eq!(mode("postgres://u@h/d?sslmode=allow"), "Prefer");
    assert_eq!(mode("postgres://u@h/d?requiressl=1"), "Require");
    assert_eq!(mode("postgres://u@h/d?sslrootcert=system"), "VerifyFull");
    assert!(refused("postgres://u@h/d?sslrootcert=system&sslmode=require").contains("write sslmode=verify-full"));
    let by_variable = with(Some("postgres://u@h/d?ssl=true"), &[("PGSSLMODE", "disable")]).unwrap();
    assert!(matches!(by_variable.get_ssl_mode(), PgSslMode::VerifyFull), "the URL comes first");
}

#[test]
fn what_is_not_understood_is_told_without_a_secret() {
    let unknown = refused("postgres://u:sekret@h/d?sslmode=verify_full");
    assert!(unknown.contains("sslmode is \"verify_full\"") && unknown.contains("did you mean \"verify-full\"?"));
    assert!(refused("postgres://u:sekret@h/d?ssl=maybe").contains("must be true or false"));
    for wrong in [
        "postgres://u:sekret@h:99999/d",
        "postgres://u:sekret@[h/d",
        "postgres://u:sekret@h:port/d",
        "postgres://u:sekret@::1/d",
        "postgres://u:sekret@[fe80]/d",
        "postgres://u:se/kret@h/d",
        "postgres://u:%ff@h/d",
        "postgres:u:sekret@h/d",
    ] {
        let told = refused(wrong);
        assert!(told.contains("cannot be read") && !told.contains("kret"), "{told}");
    }
    assert!(refused("postgres://u:sekret%00@h/d").contains("password holds a zero byte"));
    assert!(!refused("postgres://u@h/d?sslkey=x&sslpassword=sekret").contains("sekret"));
}

#[test]
fn a_user_without_a_host_is_one_at_localhost_or_at_a_socket() {
    let options = read("postgres://u:p@/d?host=/run/pg");
    assert_eq!(options.get_socket().map(|path| path.display().to_string()), Some("/run/pg".to_owned()));
    assert_eq!((options.get_username(), options.get_database()), ("u", Some("d")));
    let options = read("postgres://u:p@:5433/d");
    assert_eq!((options.get_host(), options.get_port()), ("localhost", 5433));
    let other = read("postgres://u:a%40b@h:1/d?options=-c%20search_path%3Dx");
    assert_eq!((other.get_host(), other.get_options()), ("h", Some("-c search_path=x")));
    let setting = read("postgres://u@h/d?options[application_name]=a%20b");
    assert_eq!(setting.get_options(), Some("-c application_name=a\\ b"));
    assert_eq!(read("postgres://me@work:a@b@h/d").get_username(), "me@work");
    assert_eq!(read("postgres://%2Frun%2Fpg/d%20e").get_database(), Some("d e"));
}

#[test]
fn an_address_of_ipv6_is_read_with_and_without_a_port() {
    for (url, host, port) in [
        ("postgres://u@[::1]:5433/d", "::1", 5433),
        ("postgres://u@[2001:db8::7]/d", "2001:db8::7", 5432),
        ("postgres://u@[fe80::1%25eth0]/d", "fe80::1%eth0", 5432),
        ("postgres:///d?user=u&host=::1", "::1", 5432),
        ("postgres:///d?user=u&host=[::1]&port=1", "::1", 1),
    ] {
        let options = read(url);
        assert_eq!((options.get_host(), options.get_port()), (host, port), "{url}");
    }
}

#[test]
fn several_hosts_are_refused_by_name() {
    for several in ["postgres://u:sekret@a:1,b:2/d", "postgres://u:sekret@/d?host=a,b", "postgres://u:sekret@a,b/d"] {
        let told = refused(several);
        assert!(told.contains("names several hosts (a,b)") && !told.contains("sekret"), "{told}");
    }
    let told = with(None, &[("PGHOST", "a,b"), ("PGUSER", "u")]).unwrap_err().to_string();
    assert!(told.contains("PGHOST names several hosts (a,b)"), "{told}");
}

#[test]
fn a_user_whom_nobody_names_is_the_operating_systems() {
    let me = whoami::username().unwrap();
    assert_eq!(read("postgres://localhost/app").get_username(), me);
    assert_eq!(with(None, &[("PGHOST", "h"), ("PGUSER", "")]).unwrap().get_username(), me, "an empty one is none");
    let ada = with(Some("postgres://localhost/app"), &[("PGUSER", "ada")]).unwrap();
    assert_eq!(ada.get_username(), "ada");
    // And so the driver has it, for whoever connects by that alone.
    if env::var_os("PGUSER").is_none() {
        assert_eq!("postgres://h/d".parse::<PgConnectOptions>().unwrap().get_username(), me);
    }
}

#[test]
fn a_wish_for_security_is_met_or_refused() {
    for (wish, says) in [
        ("channel_binding=require", "channel_binding=require cannot be heeded"),
        ("gssencmode=require", "sslmode=verify-full"),
        ("require_auth=scram-sha-256", "pg_hba.conf"),
        ("sslcrl=/crl.pem", "revoked"),
        ("ssl_min_protocol_version=TLSv1.3", "at the server"),
        ("sslnegotiation=direct", "every server"),
        ("sslaccept=strict", "verify-full"),
        ("sslcert=/no/such.pem", "the file \"/no/such.pem\", which cannot be read"),
        ("ssl_mode=require", "did you mean \"sslmode\""),
        ("chanel_binding=require", "did you mean \"channel_binding\""),
        ("tls=true", "may be a wish for security"),
    ] {
        let told = refused(&format!("postgres://u:sekret@h/d?{wish}"));
        assert!(told.contains(says) && !told.contains("sekret"), "{wish}: {told}");
    }
    for (variable, value) in [
        ("PGCHANNELBINDING", "require"),
        ("PGGSSENCMODE", "require"),
        ("PGREQUIREAUTH", "scram-sha-256"),
        ("PGREQUIREPEER", "postgres"),
        ("PGSSLCRL", "/crl.pem"),
        ("PGSSLMODE", "verify_full"),
    ] {
        let told = with(Some("postgres://u@h/d"), &[(variable, value)]).unwrap_err().to_string();
        assert!(told.contains(variable), "{told}");
    }
    let fine = "postgres://u@h/d?channel_binding=prefer&gssencmode=disable&ssl_min_protocol_version=TLSv1.2&sslnegotiation=postgres";
    read(fine);
    assert!(with(Some("postgres://u@h/d"), &[("PGGSSENCMODE", "disable"), ("PGCHANNELBINDING", "")]).is_ok());
    assert!(matches!(
        with(Some("postgres://u@h/d"), &[("PGREQUIRESSL", "1")]).unwrap().get_ssl_mode(),
        PgSslMode::Require
    ));
}

#[test]
fn what_other_drivers_know_is_passed_over() {
    let options = read(
        "postgres://u@h/d?schema=public&pgbouncer=true&target_session_attrs=read-write&connection_limit=5&connect_timeout=3&nonsense=1",
    );
    assert_eq!((options.get_host(), options.get_database()), ("h", Some("d")));
}

#[test]
fn a_service_file_says_what_the_url_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services.conf");
    let text = "# mine\n[other]\nhost=wrong\n\n[jobs]\nhost=db.example\nport=6543\ndbname=app\nuser=ada\npassword=se=kret \n sslmode=require\n[jobs]\nhost=second\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let system = directory.path().to_str().unwrap();
    let named = [("PGSERVICE", "jobs"), ("PGSERVICEFILE", file), ("PGHOST", "variable"), ("PGSYSCONFDIR", system)];
    let options = with(None, &named).unwrap();
    let found = (options.get_host(), options.get_port(), options.get_database(), options.get_username());
    assert_eq!(found, ("db.example", 6543, Some("app"), "ada"), "it comes before variables");
    assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
    let options = with(Some("postgres://bob@h/d"), &named).unwrap();
    assert_eq!((options.get_host(), options.get_port(), options.get_username()), ("h", 6543, "bob"));
    let by_url = with(Some(&format!("postgres:///?service=jobs&servicefile={file}")), &[]).unwrap();
    assert_eq!(by_url.get_host(), "db.example");

    let told = |name: &str, file: &str| {
        with(None, &[("PGSERVICE", name), ("PGSERVICEFILE", file), ("PGSYSCONFDIR", system)]).unwrap_err().to_string()
    };
    assert!(told("job", file).contains("the service \"job\" is in none of") && told("job", file).contains("\"jobs\"?"));
    assert!(told("jobs", "/no/such").contains("the service file \"/no/such\" is not there"));
    // The machine's file comes after the user's.
    std::fs::write(directory.path().join("pg_service.conf"), "[job]\nhost=machine\nuser=u\nchannel_binding=require\n")
        .unwrap();
    assert!(told("job", file).contains("channel_binding of the service \"job\"=require cannot be heeded"));
    let broken = directory.path().join("broken.conf");
    for (text, says) in
        [("[s]\nsekret\n", "no equals sign"), ("[s]\nservice=t\n", "another service"), ("[s\n", "bracket")]
    {
        std::fs::write(&broken, text).unwrap();
        let told = told("s", broken.to_str().unwrap());
        assert!(told.contains(says) && told.contains("line ") && !told.contains("sekret"), "{told}");
    }
}
