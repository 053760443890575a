//! What people write who come from other crontabs, and what to write instead.

/// What a line is that sets a variable, as cron's and crontabs of other schedulers have them: a part of a sentence. `extended` says
/// whether the crontab is in the extended dialect already.
pub(super) fn of_variable(line: &str, extended: bool) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
    if !is_name || !name.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_') {
        return None;
    }
    Some(match name.to_ascii_uppercase().as_str() {
        "CRON_TZ" | "TZ" if extended => {
            format!("sets a time zone for all lines, which is not known; put the option ?tz={value} on each line")
        }
        "CRON_TZ" | "TZ" => format!(
            "sets a time zone for all lines, which is not known; put the comment `# dialect: extended` above, and the option \
             ?tz={value} on each line (Node's worker goes by UTC alone)"
        ),
        _ => "sets a variable, which is not known; tasks have the environment of their worker".to_owned(),
    })
}

/// What to write instead of an option that others have for time zones.
pub(super) fn of_option(name: &str, value: &str, extended: bool) -> Option<String> {
    let plain = name.to_ascii_lowercase().replace(['_', '-'], "");
    matches!(plain.as_str(), "tz" | "timezone" | "crontz" | "zone" | "zoneinfo").then(|| {
        if extended {
            format!("is no option; a time zone is ?tz={value}")
        } else {
            format!("is no option; a time zone is ?dialect=extended&tz={value} (Node's worker goes by UTC alone)")
        }
    })
}

/// Where half of a surrogate pair stands, in bytes: an escape that alone is no character.
pub(super) fn half_character(text: &str) -> Option<usize> {
    let unit = |place: usize| {
        let digits = text.get(place..place + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut place = 0;
    while let Some(found) = text.get(place..).and_then(|rest| rest.find('\\')) {
        let at = place + found;
        match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => place = at + 12,
            Some(0xd800..=0xdfff) => return Some(at),
            Some(_) => place = at + 6,
            // The backslash, and whatever it escapes.
            None => place = at + 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_found_where_it_stands() {
        assert_eq!(half_character(r"{a: '\ud83d\ude00'}"), None);
        assert_eq!(half_character(r"{a: '\\ud800'}"), None, "a backslash that is escaped");
        assert_eq!(half_character(r"{a: 'é\ud83d'}"), Some(7));
        assert_eq!(half_character(r"{a: '\ude00\ud83d'}"), Some(5));
        assert_eq!(half_character(r"{a: '\u00e9\ud83d\u0041'}"), Some(11));
        assert_eq!(half_character("{a: '\\"), None);
    }
}
