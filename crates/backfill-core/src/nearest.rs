//! The known name that was probably meant.

/// The known name that is most like this one, if any is.
///
/// Likeness is Jaro's and Winkler's, without regard to case, which favours names that begin alike; it must be above 0.8 of 1. Of
/// short names one letter too many, too few, wrong, or in its neighbour's place is likeness enough.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (likeness(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn likeness(name: &str, candidate: &str) -> f64 {
    let slip = name.len() >= 3 && strsim::osa_distance(name, candidate) == 1;
    strsim::jaro_winkler(name, candidate).max(if slip { 0.85 } else { 0.0 })
}

/// The question that a message about an unknown name ends with: `; did you mean "x"?`, or nothing.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|other| format!("; did you mean {other:?}?")).unwrap_or_default()
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
        assert_eq!(nearest("mno", ["SUN", "MON"]), Some("MON"));
        assert_eq!(nearest("xy", ["xz"]), None);
        assert_eq!(did_you_mean("tydy", known), "; did you mean \"tidy\"?");
        assert_eq!(did_you_mean("x", []), "");
    }
}
