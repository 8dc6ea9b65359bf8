//! Derives for rows and for the payloads of control facts: one declaration gives the columns or
//! fields, the writer and the reader.
//!
//! Both derives accept a struct with named fields and without type parameters.

mod row;
mod text_payload;

use proc_macro::TokenStream;
use syn::punctuated::Punctuated;
use syn::token::Comma;
use syn::{Data, DeriveInput, Error, Field, Fields, parse_macro_input};

/// The entry of `#[derive(Row)]`: implements `tidegate_facts::row::Row` for a struct, and makes the
/// view of its columns.
///
/// For a struct `Pair` it makes `PairColumns<'_>`, a view with one typed array for each field. The
/// arrays are bound by name, once for a batch. Each field's type must implement
/// `tidegate_facts::row::Column`.
/// `#[row(name = "_tick")]` gives a column another name than its field.
#[proc_macro_derive(Row, attributes(row))]
pub fn derive_row(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    row::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// The entry of `#[derive(TextPayload)]`: implements `tidegate_facts::text_payload::TextPayload`
/// for a struct.
///
/// Each field's type must implement `tidegate_facts::text_payload::TextField`. A payload field has
/// the name of the struct's field.
#[proc_macro_derive(TextPayload)]
pub fn derive_text_payload(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    text_payload::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// The named fields of a struct without type parameters.
fn named_fields(input: &DeriveInput) -> Result<&Punctuated<Field, Comma>, Error> {
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(&input.generics, "remove the type parameters"));
    }
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(&fields.named),
            other => Err(Error::new_spanned(other, "name the fields")),
        },
        _ => Err(Error::new_spanned(&input.ident, "use a struct")),
    }
}
