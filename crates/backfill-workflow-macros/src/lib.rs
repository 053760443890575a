//! The attribute `#[workflow]` of the crate `backfill-workflow`, which shows it under its own name (feature `macros`).

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, LitStr, ReturnType, Type};

/// Makes a workflow of an async function that takes a `Ctx` and its input.
///
/// The function stays as it is. Beside it stands a constant of its name in capitals, the typed `Workflow`; and
/// `EngineBuilder::collected` registers all functions that have the attribute, in whichever crate of the program they are.
///
/// | word | what it says |
/// | --- | --- |
/// | `name = "…"` | the workflow's name: that of the function if nothing is said |
/// | `schedule = "…"` | a cron expression (seconds, minutes, hours, day, month, weekday; UTC): the input is a `Tick` |
#[proc_macro_attribute]
pub fn workflow(attributes: TokenStream, item: TokenStream) -> TokenStream {
    expand(attributes.into(), item.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn expand(attributes: Tokens, item: Tokens) -> syn::Result<Tokens> {
    let (mut name, mut schedule): (Option<LitStr>, Option<LitStr>) = (None, None);
    let parser = syn::meta::parser(|meta| {
        let place = if meta.path.is_ident("name") {
            &mut name
        } else if meta.path.is_ident("schedule") {
            &mut schedule
        } else {
            return Err(meta.error("there is no such word; `name = \"…\"` and `schedule = \"…\"` are known"));
        };
        *place = Some(meta.value()?.parse()?);
        Ok(())
    });
    parser.parse2(attributes)?;
    let function: ItemFn = syn::parse2(item)?;
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span(), "a workflow is an `async fn`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "a workflow is generic over nothing: its name is recorded"));
    }
    let inputs: Vec<&FnArg> = signature.inputs.iter().collect();
    let [FnArg::Typed(_), FnArg::Typed(input)] = &inputs[..] else {
        return Err(Error::new(
            signature.inputs.span(),
            "a workflow takes two things: a `Ctx`, and its input (`()` if it has none)",
        ));
    };
    let input: &Type = &input.ty;
    let ReturnType::Type(_, answer) = &signature.output else {
        return Err(Error::new(signature.span(), "a workflow answers a `Result`"));
    };
    let (ident, visibility) = (&signature.ident, &function.vis);
    let name = name.unwrap_or_else(|| LitStr::new(&ident.to_string(), ident.span()));
    let constant = format_ident!("{}", ident.to_string().to_uppercase(), span = ident.span());
    let documentation = format!("The workflow {:?}.", name.value());
    let scheduled = schedule.map(|cron| {
        quote! { builder.add_schedule(::backfill_workflow::Schedule::new(#name, #constant, #cron)); }
    });
    Ok(quote! {
        #function

        #[doc = #documentation]
        #visibility const #constant: ::backfill_workflow::Workflow<
            #input,
            <#answer as ::backfill_workflow::__private::Answer>::Output,
            <#answer as ::backfill_workflow::__private::Answer>::Error,
        > = ::backfill_workflow::Workflow::named(#name);

        ::backfill_workflow::__private::inventory::submit! {
            ::backfill_workflow::__private::Collected::new(|builder| {
                builder.register(#name, #ident);
                #scheduled
            })
        }
    })
}
