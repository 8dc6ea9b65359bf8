//! `#[derive(Row)]`: the Arrow schema, the builder and the reader of a row type.

use quote::{format_ident, quote};
use syn::{DeriveInput, Error, Field, LitStr};

use crate::named_fields;

pub(crate) fn expand(input: &DeriveInput) -> Result<proc_macro2::TokenStream, Error> {
    let fields = named_fields(input)?;
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
