//! `#[derive(Row)]`: the Arrow schema, the builder and the reader of a row type, from one
//! declaration.
//!
//! For a struct `Pair` it implements `tidegate_facts::row::Row` and makes `PairColumns<'_>`, a view
//! with one typed array for each field, bound by name once for a batch. Each field's type must
//! implement `tidegate_facts::row::Column`. `#[row(name = "_tick")]` gives a column another name
//! than its field.

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Field, Fields, LitStr, parse_macro_input};

/// Implements `Row` for a struct with named fields, and makes the view of its columns.
#[proc_macro_derive(Row, attributes(row))]
pub fn derive_row(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> Result<proc_macro2::TokenStream, Error> {
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => &fields.named,
            other => return Err(Error::new_spanned(other, "a row has named fields")),
        },
        _ => return Err(Error::new_spanned(&input.ident, "a row is a struct")),
    };
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(&input.generics, "a row has no type parameters"));
    }
    let (row, visibility) = (&input.ident, &input.vis);
    let columns = format_ident!("{row}Columns");
    let names: Vec<String> = fields.iter().map(column_name).collect::<Result<_, _>>()?;
    let idents: Vec<_> = fields.iter().map(|field| field.ident.as_ref().expect("it is named")).collect();
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let docs: Vec<String> = names.iter().map(|name| format!("The column `{name}`.")).collect();
    let doc = format!("The columns of a batch of [`{row}`], bound by name.");
    Ok(quote! {
        #[doc = #doc]
        #[derive(Clone, Copy, Debug)]
        #visibility struct #columns<'b> {
            #( #[doc = #docs] pub #idents: &'b <#types as ::tidegate_facts::row::Column>::Array, )*
            rows: usize,
        }

        impl<'b> #columns<'b> {
            /// Binds the columns of a batch.
            ///
            /// # Errors
            /// When the batch lacks a column, or one has another type.
            #visibility fn bind(
                batch: &'b ::tidegate_facts::row::RecordBatch,
            ) -> ::core::result::Result<Self, ::tidegate_facts::row::RowMismatch> {
                ::core::result::Result::Ok(#columns {
                    #( #idents: ::tidegate_facts::row::column::<#types>(batch, #names)?, )*
                    rows: batch.num_rows(),
                })
            }

            /// The number of rows.
            #visibility fn len(&self) -> usize {
                self.rows
            }

            /// Whether there are no rows.
            #visibility fn is_empty(&self) -> bool {
                self.rows == 0
            }

            /// A row, copied out of the columns.
            #visibility fn row(&self, row: usize) -> #row {
                #row { #( #idents: <#types as ::tidegate_facts::row::Column>::get(self.#idents, row), )* }
            }

            /// Every row, copied out of the columns.
            #visibility fn rows(&self) -> impl Iterator<Item = #row> + '_ {
                (0..self.rows).map(|row| self.row(row))
            }
        }

        impl ::tidegate_facts::row::Row for #row {
            fn fields() -> ::std::vec::Vec<::tidegate_facts::row::Field> {
                ::std::vec![ #( ::tidegate_facts::row::field::<#types>(#names), )* ]
            }

            fn columns(rows: &[Self]) -> ::std::vec::Vec<::tidegate_facts::row::ArrayRef> {
                ::std::vec![ #( <#types as ::tidegate_facts::row::Column>::array(rows.iter().map(|row| &row.#idents)), )* ]
            }

            fn read(
                batch: &::tidegate_facts::row::RecordBatch,
            ) -> ::core::result::Result<::std::vec::Vec<Self>, ::tidegate_facts::row::RowMismatch> {
                ::core::result::Result::Ok(#columns::bind(batch)?.rows().collect())
            }
        }
    })
}

/// The name of a field's column: its own, or that of `#[row(name = "..")]`.
fn column_name(field: &Field) -> Result<String, Error> {
    let mut name = field.ident.as_ref().expect("it is named").to_string();
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("name") {
                return Err(meta.error("write #[row(name = \"column\")]"));
            }
            name = meta.value()?.parse::<LitStr>()?.value();
            Ok(())
        })?;
    }
    Ok(name)
}
