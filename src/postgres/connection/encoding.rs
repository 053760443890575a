//! Texts beside a database's encoding.
//!
//! A database that is not in UTF-8 lacks characters, and its server refuses a statement that has one among its values. What somebody
//! adds is refused so, before anything is stored. But the text of an error is nobody's choice, and says why a job failed: it is
//! written with the characters replaced.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Database;
use super::errors::code;
use super::failure::driver;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::storage::Settlement;

/// What stands for a character that cannot be stored.
const REPLACEMENT: char = '?';
/// The most characters that are asked for at one time; all others are replaced unasked.
const MOST_ASKED: usize = 64;
/// The most that are remembered.
const MOST_KNOWN: usize = 10_000;

/// Which characters can be stored, as far as it was asked.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Characters(Mutex<HashMap<char, bool>>);

impl Characters {
    fn known(&self, character: char) -> Option<bool> {
        if character.is_ascii() {
            return Some(true);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&character).copied()
    }

    fn learn(&self, character: char, is_storable: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(character, is_storable);
    }
}

/// Whether a statement was refused for a character: untranslatable_character, character_not_in_repertoire.
pub(in crate::postgres) fn is_for_a_character(error: &Error) -> bool {
    driver(error).is_some_and(lacks_character)
}

fn lacks_character(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("22P05" | "22021"))
}

impl Database {
    /// Runs a statement that writes a text, and runs it again with the text as it can be stored, if it is refused for a character.
    pub(in crate::postgres) async fn with_storable<T, F: Future<Output = Result<T>>>(
        &self,
        text: String,
        statement: impl Fn(String) -> F,
    ) -> Result<T> {
        match statement(text.clone()).await {
            Err(error) if is_for_a_character(&error) => {
                let storable = self.storable(&text).await?;
                if storable == text { Err(error) } else { statement(storable).await }
            }
            result => result,
        }
    }

    /// The same results with the texts of their errors as they can be stored; `None` if that changes nothing.
    pub(in crate::postgres) async fn storable_results(
        &self,
        settled: &[Settlement],
    ) -> Result<Option<Vec<Settlement>>> {
        let mut storable = settled.to_vec();
        for settlement in &mut storable {
            if let Some(error) = settlement.outcome.error_mut() {
                *error = self.storable(&crate::storage::clean_error(error)).await?;
            }
        }
        Ok((storable != settled).then_some(storable))
    }

    /// The same jobs with the texts of their errors as they can be stored; `None` if that changes nothing.
    pub(in crate::postgres) async fn storable_jobs(&self, jobs: &[Job]) -> Result<Option<Vec<Job>>> {
        let mut storable = jobs.to_vec();
        for error in storable.iter_mut().filter_map(|job| job.last_error.as_mut()) {
            *error = self.storable(error).await?;
        }
        Ok((storable != jobs).then_some(storable))
    }

    /// A text with the characters replaced that the database's encoding lacks.
    async fn storable(&self, text: &str) -> Result<String> {
        let mut asked = 0;
        let mut storable = String::with_capacity(text.len());
        for character in text.chars() {
            let is_storable = match self.characters.known(character) {
                Some(is_storable) => is_storable,
                None if asked == MOST_ASKED => false,
                None => {
                    asked += 1;
                    self.is_storable(character).await?
                }
            };
            storable.push(if is_storable { character } else { REPLACEMENT });
        }
        Ok(storable)
    }

    async fn is_storable(&self, character: char) -> Result<bool> {
        let text = character.to_string();
        // To arrive is the question: the server turns the value into its encoding before anything else.
        let arrived = sqlx::query_scalar!(r#"select $1::text is null as "is_null!""#, text)
            .fetch_one(self.schema.on(&self.db()))
            .await;
        let is_storable = match arrived {
            Ok(_) => true,
            Err(error) if lacks_character(&error) => false,
            Err(error) => return Err(self.error("ask for a character", error)),
        };
        self.characters.learn(character, is_storable);
        Ok(is_storable)
    }
}
