//! Jobs whose payload is an array, answered item by item.

use serde_json::value::RawValue;

use super::TaskError;
use crate::job::Payload;

/// Turns one result per item into what becomes of the job: done, or failed with the items that are left.
///
/// The text of the error and the kept payload are Graphile's. A list of the wrong length fails the attempt with
/// every item kept (Node's workers call that a success and lose the items).
pub(crate) fn settle_items(
    payload: &Payload,
    results: Vec<Result<(), TaskError>>,
) -> Result<(), (TaskError, Option<Payload>)> {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(payload.as_str()) else {
        // Not an array: the results speak for the whole payload.
        return join_errors(results.into_iter().filter_map(Result::err)).map_or(Ok(()), |error| Err((error, None)));
    };
    if items.len() != results.len() {
        return Err((
            TaskError::new(format!(
                "the task answered {} results for {} items, so it is unknown which were done; all are kept",
                results.len(),
                items.len()
            )),
            None,
        ));
    }
    let mut left = Vec::new();
    let mut errors = Vec::new();
    for (item, result) in items.into_iter().zip(results) {
        if let Err(error) = result {
            left.push(item.get());
            errors.push(error);
        }
    }
    match join_errors(errors.into_iter()) {
        None => Ok(()),
        Some(error) => Err((error, Some(Payload::from_trusted(format!("[{}]", left.join(",")))))),
    }
}

fn join_errors(errors: impl Iterator<Item = TaskError>) -> Option<TaskError> {
    let messages: Vec<String> = errors.map(|error| error.into_parts().0).collect();
    (!messages.is_empty()).then(|| TaskError::new(format!("Batch failures:\n{}", messages.join("\n"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(list: &[Option<&str>]) -> Vec<Result<(), TaskError>> {
        list.iter().map(|item| item.map_or(Ok(()), |text| Err(TaskError::new(text)))).collect()
    }

    #[test]
    fn failed_items_are_kept_in_order_and_byte_for_byte() {
        let payload = Payload::from_json(r#"[1, {"a" : 2.50}, "x", 9007199254740993]"#).unwrap();
        let (error, left) = settle_items(&payload, results(&[None, Some("bad 2"), None, Some("bad 4")])).unwrap_err();
        assert_eq!(error.message(), "Batch failures:\nbad 2\nbad 4");
        assert_eq!(left.unwrap().as_str(), r#"[{"a" : 2.50},9007199254740993]"#);
    }

    #[test]
    fn all_items_done_is_done_and_so_is_an_empty_batch() {
        assert!(settle_items(&Payload::from_json("[1,2]").unwrap(), results(&[None, None])).is_ok());
        assert!(settle_items(&Payload::from_json("[]").unwrap(), vec![]).is_ok());
        assert!(settle_items(&Payload::empty(), results(&[None])).is_ok());
    }

    #[test]
    fn a_wrong_number_of_results_keeps_every_item() {
        let payload = Payload::from_json("[1,2,3]").unwrap();
        let (error, left) = settle_items(&payload, results(&[None])).unwrap_err();
        assert!(error.message().contains("1 results for 3 items"));
        assert!(left.is_none(), "the payload stays as it is");
    }
}
