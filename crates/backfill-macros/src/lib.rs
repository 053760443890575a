//! Derive macros of the job queue `backfill`, which exports them.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, LitInt, LitStr, Path, Result};

/// The limits of names and attempts: those of Graphile's schema.
const MAX_NAME: usize = 128;
const MAX_ATTEMPTS: i16 = i16::MAX;

/// Lets a payload name its task.
///
/// Without anything said, the task is called as the type is, in snake case. All of these may be said:
///
/// ```ignore
/// #[derive(Serialize, Deserialize, TaskPayload)]
/// #[task(name = "send_invoice", serial_queue = "billing", priority = -5, max_attempts = 3)]
/// struct SendInvoice { order: u64 }
/// ```
///
/// | what | default |
/// | --- | --- |
/// | `name` | the type's name in snake case; 1 to 128 characters |
/// | `serial_queue` | none; 1 to 128 characters |
/// | `priority` | 0; smaller runs sooner; from -32768 to 32767 |
/// | `max_attempts` | 25; from 1 to 32767 |
/// | `crate` | `::backfill`; for programs that depend on the core only, `crate = ::backfill_core::job` |
///
/// # Errors
/// What is outside these limits does not compile.
#[proc_macro_derive(TaskPayload, attributes(task))]
pub fn task_payload(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    derive(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// What was said in `#[task(…)]`.
#[derive(Default)]
struct Said {
    name: Option<String>,
    serial_queue: Option<String>,
    priority: Option<i16>,
    max_attempts: Option<u32>,
    path: Option<Path>,
}

fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let mut said = Said::default();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("task")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                said.name = Some(name(&meta.value()?.parse()?)?);
            } else if meta.path.is_ident("serial_queue") {
                said.serial_queue = Some(name(&meta.value()?.parse()?)?);
            } else if meta.path.is_ident("priority") {
                said.priority = Some(meta.value()?.call(number)?);
            } else if meta.path.is_ident("max_attempts") {
                let (span, attempts) = (meta.path.segments[0].ident.span(), meta.value()?.call(number)?);
                if attempts < 1 {
                    return Err(Error::new(span, format!("max_attempts is from 1 to {MAX_ATTEMPTS}")));
                }
                said.max_attempts = Some(u32::try_from(attempts).unwrap_or_default());
            } else if meta.path.is_ident("crate") {
                said.path = Some(meta.value()?.parse()?);
            } else {
                return Err(
                    meta.error("only name, serial_queue, priority, max_attempts and crate can be said of a task")
                );
            }
            Ok(())
        })?;
    }
    let task = match said.name {
        Some(name) => name,
        None => name(&LitStr::new(&snake_case(&input.ident.to_string()), input.ident.span()))?,
    };
    let path = said.path.unwrap_or_else(|| syn::parse_quote!(::backfill));
    let queue = said.serial_queue.map(|queue| quote!(.serial_queue(#queue)));
    let priority = said.priority.map(|priority| quote!(.priority(#priority)));
    let attempts = said.max_attempts.map(|attempts| quote!(.max_attempts(#attempts)));
    let mut all = input.generics.clone();
    if all.type_params().next().is_some() {
        // Whether it can be written depends on the arguments.
        all.make_where_clause().predicates.push(syn::parse_quote!(Self: #path::__Serialize));
    }
    let (type_name, (generics, arguments, bounds)) = (&input.ident, all.split_for_impl());
    Ok(quote! {
        impl #generics #path::TaskPayload for #type_name #arguments #bounds {
            const TASK: &'static str = #task;

            fn defaults(spec: #path::JobSpec) -> #path::JobSpec {
                spec #queue #priority #attempts
            }
        }
    })
}

/// A name as the schema takes it.
fn name(text: &LitStr) -> Result<String> {
    let name = text.value();
    let length = name.chars().count();
    if length == 0 || length > MAX_NAME {
        return Err(Error::new(text.span(), format!("a name has 1 to {MAX_NAME} characters, and this has {length}")));
    }
    if name.contains('\0') {
        return Err(Error::new(text.span(), "a name cannot hold the character NUL"));
    }
    Ok(name)
}

/// A number of 16 bits, perhaps negative.
fn number(input: syn::parse::ParseStream<'_>) -> Result<i16> {
    let minus = input.parse::<Option<syn::Token![-]>>()?;
    let number: LitInt = input.parse()?;
    let text = format!("{}{}", minus.map_or("", |_| "-"), number.base10_digits());
    text.parse().map_err(|_| Error::new(number.span(), format!("{text} is not from {} to {}", i16::MIN, i16::MAX)))
}

/// `SendInvoice` as `send_invoice`; `HTTPCall` as `http_call`.
fn snake_case(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (index, character) in characters.iter().enumerate() {
        let after_lower = index > 0 && !characters[index - 1].is_uppercase() && characters[index - 1] != '_';
        let before_lower = index > 0
            && characters[index - 1].is_uppercase()
            && characters.get(index + 1).is_some_and(|next| next.is_lowercase());
        if character.is_uppercase() && (after_lower || before_lower) {
            snake.push('_');
        }
        snake.extend(character.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(input: &str) -> std::result::Result<String, String> {
        let input = syn::parse_str(input).expect("Rust");
        derive(&input).map(|tokens| tokens.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_task_is_called_as_its_payloads_type_in_snake_case() {
        for (name, snake) in [
            ("SendInvoice", "send_invoice"),
            ("HTTPCall", "http_call"),
            ("Sync2Shops", "sync2_shops"),
            ("A", "a"),
            ("already_snake", "already_snake"),
            ("ParseJSON", "parse_json"),
        ] {
            assert_eq!(snake_case(name), snake);
        }
        assert!(derived("struct SendInvoice;").expect("tokens").contains("\"send_invoice\""));
    }

    #[test]
    fn what_is_said_of_a_task_becomes_its_defaults() {
        let tokens =
            derived("#[task(name = \"mail\", serial_queue = \"q\", priority = -5, max_attempts = 3)] struct S<T>(T);");
        let tokens = tokens.expect("tokens");
        for part in ["\"mail\"", "serial_queue (\"q\")", "priority (- 5i16)", "max_attempts (3u32)", "impl < T >"] {
            assert!(tokens.contains(part), "{part}: {tokens}");
        }
        let tokens = derived("#[task(crate = ::backfill_core::job)] struct S;").expect("tokens");
        assert!(tokens.contains(":: backfill_core :: job :: TaskPayload"), "{tokens}");
    }

    #[test]
    fn what_no_job_can_have_does_not_compile() {
        for (said, told) in [
            ("name = \"\"".to_owned(), "1 to 128"),
            (format!("name = {:?}", "x".repeat(129)), "1 to 128"),
            ("serial_queue = \"\"".to_owned(), "1 to 128"),
            ("priority = 40000".to_owned(), "40000 is not from -32768 to 32767"),
            ("max_attempts = 0".to_owned(), "from 1 to 32767"),
            ("max_attempts = -1".to_owned(), "from 1 to 32767"),
            ("queue = \"q\"".to_owned(), "only name"),
        ] {
            let error = derived(&format!("#[task({said})] struct S;")).expect_err(&said);
            assert!(error.contains(told), "{said}: {error}");
        }
    }
}
