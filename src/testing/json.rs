//! Comparing JSON.

use serde_json::Value;

/// Where `found` does not contain `expected`, with what is expected and found there; `None` if it does.
///
/// An object contains another one if it has all its keys, with values that contain those. Everything else contains its equal. Arrays are of one
/// length, and contain each other item by item.
pub(super) fn lacks(found: &Value, expected: &Value) -> Option<String> {
    lacks_at(found, expected, "")
}

fn lacks_at(found: &Value, expected: &Value, path: &str) -> Option<String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => expected.iter().find_map(|(key, expected)| {
            let path = format!("{path}.{key}");
            match found.get(key) {
                Some(found) => lacks_at(found, expected, &path),
                None => Some(format!("`{path}` is missing, and should be {expected}")),
            }
        }),
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            (0..found.len()).find_map(|index| lacks_at(&found[index], &expected[index], &format!("{path}[{index}]")))
        }
        _ if found == expected => None,
        _ if path.is_empty() => Some(format!("it is {found}, and should have {expected}")),
        _ => Some(format!("`{path}` is {found}, and should be {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_contains_one_with_fewer_keys_at_any_depth() {
        let found = json!({ "to": { "name": "Ada", "mail": "ada@example.com" }, "cc": [{ "a": 1, "b": 2 }] });
        for part in [json!({}), json!({ "to": { "name": "Ada" } }), json!({ "cc": [{ "b": 2 }] })] {
            assert_eq!(lacks(&found, &part), None, "{part}");
        }
    }

    #[test]
    fn the_first_difference_is_named_with_its_path() {
        let found = json!({ "to": { "name": "Ada" }, "cc": [1, 2] });
        for (expected, says) in [
            (json!({ "to": { "name": "Eve" } }), r#"`.to.name` is "Ada", and should be "Eve""#),
            (json!({ "cc": [1, 3] }), "`.cc[1]` is 2, and should be 3"),
            (json!({ "cc": [1] }), "`.cc` is [1,2], and should be [1]"),
            (json!({ "bcc": 1 }), "`.bcc` is missing, and should be 1"),
        ] {
            assert_eq!(lacks(&found, &expected).as_deref(), Some(says));
        }
        assert_eq!(lacks(&json!(1), &json!({})).as_deref(), Some("it is 1, and should have {}"));
    }
}
