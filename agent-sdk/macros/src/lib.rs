//! The attribute macro of agent-sdk.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::{Error, FnArg, ItemFn, ReturnType, Type, parse_macro_input};

/// Makes a function the agent's handler: the component then exports `agent:runtime/handler`.
///
/// Its arguments implement `agent_sdk::FromTask` (or are `&Task`), its result `agent_sdk::IntoOutcome`. It may be
/// `async`. A crate has one handler.
#[proc_macro_attribute]
pub fn agent(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        let arguments = Tokens::from(arguments);
        return Error::new_spanned(arguments, "#[agent] takes no arguments").into_compile_error().into();
    }
    let function = parse_macro_input!(item as ItemFn);
    expand(&function).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(function: &ItemFn) -> Result<Tokens, Error> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(&signature.generics, "a handler cannot be generic"));
    }
    if let ReturnType::Default = signature.output {
        return Err(Error::new_spanned(signature, "a handler returns a result, such as `Result<(), Failure>`"));
    }
    let types = signature.inputs.iter().map(argument_type).collect::<Result<Vec<_>, _>>()?;

    let names: Vec<_> = (0..types.len()).map(|index| format_ident!("argument_{index}")).collect();
    // The task is moved, not copied, into one argument: the `Task` if there is one by value, else the first.
    let owner =
        types.iter().position(|kind| is_task(kind)).or_else(|| types.iter().position(|kind| !is_reference(kind)));
    let has_reference = types.iter().any(|kind| is_reference(kind));
    let mut borrowed = Vec::new();
    let mut owned = None;
    for (index, (name, kind)) in names.iter().zip(&types).enumerate() {
        if is_reference(kind) {
            borrowed.push(quote! { let #name = &task; });
        } else if owner == Some(index) && !has_reference {
            owned = Some(quote! { let #name = <#kind as ::agent_sdk::FromTask>::from_owned_task(task)?; });
        } else {
            borrowed.push(quote! { let #name = <#kind as ::agent_sdk::FromTask>::from_task(&task)?; });
        }
    }

    let name = &signature.ident;
    let call = quote! { #name(#(#names),*) };
    let call = if signature.asyncness.is_some() {
        quote! { ::agent_sdk::__private::block_on(#call)? }
    } else {
        call
    };

    Ok(quote! {
        #function

        const _: () = {
            struct Agent;

            impl Agent {
                fn run(
                    task: ::agent_sdk::Task,
                ) -> ::core::result::Result<::core::option::Option<::agent_sdk::Output>, ::agent_sdk::Failure> {
                    #(#borrowed)*
                    #owned
                    ::agent_sdk::IntoOutcome::into_outcome(#call)
                }
            }

            impl ::agent_sdk::__private::handler::Guest for Agent {
                fn handle(
                    task: ::agent_sdk::__private::handler::Task,
                ) -> ::core::result::Result<
                    ::core::option::Option<::agent_sdk::__private::handler::Output>,
                    ::agent_sdk::__private::handler::Failure,
                > {
                    ::agent_sdk::__private::lower(Self::run(::agent_sdk::__private::task(task)))
                }
            }

            // Elsewhere the exported name is no valid symbol (`@` asks the linker for a symbol version).
            #[cfg(target_family = "wasm")]
            ::agent_sdk::__private::bindings::export!(Agent with_types_in ::agent_sdk::__private::bindings);
            // So that the handler and all it calls do not count as dead code there.
            #[cfg(not(target_family = "wasm"))]
            const _: fn(::agent_sdk::__private::handler::Task) -> ::core::result::Result<
                ::core::option::Option<::agent_sdk::__private::handler::Output>,
                ::agent_sdk::__private::handler::Failure,
            > = <Agent as ::agent_sdk::__private::handler::Guest>::handle;
        };
    })
}

fn argument_type(argument: &FnArg) -> Result<&Type, Error> {
    match argument {
        FnArg::Typed(argument) => Ok(&argument.ty),
        FnArg::Receiver(receiver) => Err(Error::new_spanned(receiver, "a handler is a free function")),
    }
}

fn is_reference(kind: &Type) -> bool {
    matches!(kind, Type::Reference(_))
}

fn is_task(kind: &Type) -> bool {
    matches!(kind, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == "Task"))
}
