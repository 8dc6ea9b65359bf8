//! `#[derive(TextPayload)]`: the schema, the writer and the reader of a payload of texts.

use quote::quote;
use syn::{DeriveInput, Error};

use crate::named_fields;

pub(crate) fn expand(input: &DeriveInput) -> Result<proc_macro2::TokenStream, Error> {
    let fields = named_fields(input)?;
    let payload = &input.ident;
    let idents: Vec<_> = fields.iter().map(|field| field.ident.as_ref().expect("it is named")).collect();
    let names: Vec<String> = idents.iter().map(ToString::to_string).collect();
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let indexes = 0..names.len();
    Ok(quote! {
        impl ::tidegate_facts::text_payload::TextPayload for #payload {
            const FIELDS: &'static [(&'static str, bool)] = &[
                #( (#names, <#types as ::tidegate_facts::text_payload::TextField>::OPTIONAL), )*
            ];

            fn texts(&self) -> ::std::vec::Vec<::core::option::Option<::std::string::String>> {
                ::std::vec![ #( ::tidegate_facts::text_payload::TextField::to_text(&self.#idents), )* ]
            }

            fn of_texts(
                texts: &[::core::option::Option<&str>],
            ) -> ::core::result::Result<Self, ::std::string::String> {
                ::core::result::Result::Ok(#payload {
                    #( #idents: ::tidegate_facts::text_payload::of_text(#names, texts[#indexes])?, )*
                })
            }
        }
    })
}
