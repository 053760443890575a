//! The configurable schema, and how one set of checked statements serves any.
//!
//! Every statement in this crate is a literal that names the schema `graphile_worker`, so that the `query!` macros
//! can check it at compile time. [`Scoped`] wraps any executor (pool, connection, transaction), puts the quoted
//! name of the configured schema into the text, and passes text and arguments on. Nothing depends on
//! `search_path`, which a pooler may not keep. Crates beside this one that have tables of their own do the same with a template of
//! theirs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Either, Execute, Executor, Postgres, SqlSafeStr, SqlStr};

use crate::error::{Error, Result};

/// The name that statements are written with.
pub(crate) const TEMPLATE: &str = "graphile_worker";

/// A schema's name, checked and quoted, with the statements that were rewritten for it.
///
/// Statements are written, and checked at compile time, with the name of a template; [`Schema::on`] puts the configured one in.
#[derive(Debug)]
pub struct Schema {
    template: &'static str,
    name: String,
    quoted: String,
    /// Whether statements may be prepared under a name and kept by the connection.
    persistent: bool,
    rewritten: RwLock<HashMap<Box<str>, Arc<str>>>,
}

impl Schema {
    /// A schema of this queue's.
    pub(crate) fn new(name: &str, persistent: bool) -> Result<Self> {
        Self::of_template(TEMPLATE, name, persistent)
    }

    /// The schema `name`, for statements that are written with the schema `template`. Accepts every name PostgreSQL accepts: 1 to 63 bytes,
    /// no NUL, not starting with `pg_`. With `persistent`, statements may be prepared under a name and kept by the connection, which
    /// some poolers do not bear.
    ///
    /// # Errors
    /// When the server would not take the name.
    pub fn of_template(template: &'static str, name: &str, persistent: bool) -> Result<Self> {
        let problem = if name.is_empty() {
            "must not be empty".to_owned()
        } else if name.len() > 63 {
            format!("has {} bytes; PostgreSQL allows 63", name.len())
        } else if name.contains('\0') {
            "contains a NUL character".to_owned()
        } else if name.starts_with("pg_") {
            "starts with pg_, which PostgreSQL keeps for itself".to_owned()
        } else {
            return Ok(Self {
                template,
                name: name.to_owned(),
                quoted: quote(name),
                persistent,
                rewritten: RwLock::default(),
            });
        };
        Err(Error::InvalidSchemaName { name: name.to_owned(), problem })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether statements may be prepared under a name and kept by the connection.
    pub(crate) fn persistent(&self) -> bool {
        self.persistent
    }

    /// The name as it stands in SQL text.
    pub fn quoted(&self) -> &str {
        &self.quoted
    }

    /// Wraps an executor: a pool, a connection or a transaction.
    pub fn on<E>(&self, inner: E) -> Scoped<'_, E> {
        Scoped { schema: self, inner }
    }

    /// A script for this schema. Scripts name the template before a dot or in single quotes, and quote bodies with `$$`.
    pub fn script(&self, template: &str) -> SqlStr {
        // Any name is put into the bodies, so their quotes must be something that no name of this schema can end.
        let tag =
            (0..1000).map(|n| format!("$body{n}$")).find(|tag| !self.quoted.contains(tag.as_str())).unwrap_or_default();
        let text = self.rewrite(&template.replace("$$", &tag));
        // Dynamic because the schema is configurable; the only thing put in is the quoted identifier.
        AssertSqlSafe(text).into_sql_str()
    }

    /// Puts the name in, in one pass, so that nothing in the name is taken for the template.
    fn rewrite(&self, template: &str) -> String {
        let name = self.template;
        let mut text = String::with_capacity(template.len() + 256);
        let mut rest = template;
        while let Some(start) = rest.find(name) {
            let (before, from) = rest.split_at(start);
            let after = &from[name.len()..];
            text.push_str(before);
            if after.starts_with('.') && before.ends_with('\'') {
                text.push_str(&self.quoted.replace('\'', "''"));
            } else if after.starts_with('.') {
                text.push_str(&self.quoted);
            } else if before.ends_with('\'') && after.starts_with('\'') {
                text.push_str(&self.quoted.replace('\'', "''"));
            } else {
                text.push_str(name);
            }
            rest = after;
        }
        text.push_str(rest);
        text
    }

    fn sql(&self, template: SqlStr) -> SqlStr {
        if self.name == self.template {
            return template;
        }
        let known = self.rewritten.read().unwrap_or_else(PoisonError::into_inner).get(template.as_str()).cloned();
        let text = known.unwrap_or_else(|| {
            let text: Arc<str> = self.rewrite(template.as_str()).into();
            self.rewritten
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(template.as_str().into(), Arc::clone(&text));
            text
        });
        // Dynamic because the schema is configurable; the only thing put in is the quoted identifier.
        AssertSqlSafe(text).into_sql_str()
    }
}

/// A name as it stands in SQL text.
pub(in crate::postgres) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// An executor that puts the schema's name into each statement.
#[derive(Debug)]
pub struct Scoped<'s, E> {
    schema: &'s Schema,
    inner: E,
}

/// A statement with its text replaced.
struct Rewritten {
    sql: SqlStr,
    arguments: Option<Result<Option<PgArguments>, BoxDynError>>,
    persistent: bool,
}

impl Rewritten {
    fn new<'q>(schema: &Schema, mut query: impl Execute<'q, Postgres>) -> Self {
        let arguments = Some(query.take_arguments());
        let persistent = schema.persistent && query.persistent();
        Self { sql: schema.sql(query.sql()), arguments, persistent }
    }
}

impl Execute<'_, Postgres> for Rewritten {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.arguments.take().unwrap_or(Ok(None))
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

impl<'c, X: Executor<'c, Database = Postgres>> Executor<'c> for Scoped<'_, X> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.inner.fetch_many(Rewritten::new(self.schema, query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.inner.fetch_optional(Rewritten::new(self.schema, query))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.inner.prepare_with(self.schema.sql(sql), parameters)
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.inner.describe(self.schema.sql(sql))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_postgresql_refuses_are_refused() {
        for bad in ["", "pg_jobs", "a\0b", &"x".repeat(64), &"ü".repeat(32)] {
            assert!(matches!(Schema::new(bad, true), Err(Error::InvalidSchemaName { .. })), "{bad:?}");
        }
        for good in ["Weird\"Schema", "with space", "ünï", &"x".repeat(63), "select"] {
            Schema::new(good, true).unwrap();
        }
    }

    #[test]
    fn a_name_is_always_put_in_quoted() {
        let schema = Schema::new("o\"; drop table x; --", true).unwrap();
        assert_eq!(
            schema.sql(SqlStr::from_static("select 1 from graphile_worker.t, graphile_worker.u")).as_str(),
            "select 1 from \"o\"\"; drop table x; --\".t, \"o\"\"; drop table x; --\".u"
        );
        let script = Schema::new("it's", true).unwrap().script("select 'graphile_worker'::regnamespace");
        assert_eq!(script.as_str(), "select '\"it''s\"'::regnamespace");
        let table = Schema::new("it's", true).unwrap().script("select 'graphile_worker.t'::regclass");
        assert_eq!(table.as_str(), "select '\"it''s\".t'::regclass");
        let tricky = "'graphile_worker' graphile_worker. $$ $body0$";
        let script = Schema::new(tricky, true).unwrap().script("do $$ graphile_worker.t 'graphile_worker' $$");
        assert_eq!(
            script.as_str(),
            "do $body1$ \"'graphile_worker' graphile_worker. $$ $body0$\".t \
             '\"''graphile_worker'' graphile_worker. $$ $body0$\"' $body1$"
        );
    }
}
