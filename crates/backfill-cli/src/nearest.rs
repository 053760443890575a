//! The known name that was probably meant.

/// The known name that is most like this one, if any is.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// That there is no such name, and which one was probably meant.
pub fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(other) => format!("no {what} is called {name:?}; did you mean {other:?}?"),
        None => format!("no {what} is called {name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_known_is_recognised() {
        let known = ["send_invoice", "send_report", "tidy"];
        assert_eq!(nearest("snd_invoice", known), Some("send_invoice"));
        assert_eq!(nearest("TIDY", known), Some("tidy"));
        assert_eq!(nearest("zebra", known), None);
        assert_eq!(unknown("task", "tydy", known), "no task is called \"tydy\"; did you mean \"tidy\"?");
        assert_eq!(unknown("task", "x", []), "no task is called \"x\"");
    }
}
