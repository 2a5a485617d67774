//! Why a request was not carried out, and how that is told.

use banger_core::Error;

use crate::protocol::{
    CODE_FAILED, CODE_INVALID_PARAMS, CODE_INVALID_REQUEST, CODE_NO_METHOD, CODE_PARSE, ErrorData,
    METHODS, RpcError,
};

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) enum Fault {
    /// The line is no JSON.
    NotJson { reason: String },
    /// It is JSON and no request.
    NoRequest { reason: &'static str },
    /// The line is too long.
    LineTooLong { limit: usize },
    /// There is no such method.
    NoMethod { method: String },
    /// The parameters are not the method's.
    Params {
        method: &'static str,
        reason: String,
    },
    /// The engine could not do it.
    Engine(Error),
    /// The daemon is ending.
    Stopping,
    /// A bug.
    Bug { reason: String },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Engine(error)
    }
}

impl Fault {
    /// Puts it into the protocol's form.
    pub(super) fn into_rpc(self, op_id: String) -> RpcError {
        let told = |code: i64, kind: &str, message: String, hint: Option<String>| RpcError {
            code,
            message,
            data: Some(ErrorData {
                kind: kind.to_owned(),
                causes: Vec::new(),
                hint,
                op_id: op_id.clone(),
            }),
        };
        match self {
            Fault::NotJson { reason } => told(
                CODE_PARSE,
                "invalid",
                format!("the line is no JSON: {reason}"),
                None,
            ),
            Fault::NoRequest { reason } => told(
                CODE_INVALID_REQUEST,
                "invalid",
                format!("the line is no request: {reason}"),
                None,
            ),
            Fault::LineTooLong { limit } => told(
                CODE_INVALID_REQUEST,
                "invalid",
                format!("the request has more than {limit} bytes"),
                None,
            ),
            Fault::NoMethod { method } => told(
                CODE_NO_METHOD,
                "invalid",
                format!("there is no method {:?}", shortened(&method)),
                Some(format!("there are: {}", alike(&method).join(", "))),
            ),
            Fault::Params { method, reason } => told(
                CODE_INVALID_PARAMS,
                "invalid",
                format!("{method}: {reason}"),
                None,
            ),
            Fault::Engine(error) => {
                let mut chain = error.chain().into_iter();
                RpcError {
                    code: CODE_FAILED,
                    message: chain.next().unwrap_or_default(),
                    data: Some(ErrorData {
                        kind: kind_of(&error),
                        causes: chain.collect(),
                        hint: error.hint(),
                        op_id,
                    }),
                }
            }
            Fault::Stopping => told(
                CODE_FAILED,
                "failed",
                "the daemon is stopping".to_owned(),
                Some("ask again: a new one is started".to_owned()),
            ),
            Fault::Bug { reason } => told(
                CODE_FAILED,
                "failed",
                format!("this is a bug of the daemon's: {reason}"),
                Some("the daemon's log says more".to_owned()),
            ),
        }
    }
}

/// The stable word of an error's kind, as it is serialised.
fn kind_of(error: &Error) -> String {
    match serde_json::to_value(error.kind()) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "failed".to_owned(),
    }
}

/// The error in one line, for the log.
pub(super) fn in_one_line(error: &RpcError) -> String {
    let causes = error.data.iter().flat_map(|data| &data.causes);
    let texts: Vec<&str> = std::iter::once(&error.message)
        .chain(causes)
        .map(String::as_str)
        .collect();
    texts.join(": ")
}

/// The methods of the same noun, or all.
fn alike(method: &str) -> Vec<&'static str> {
    let noun = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let same: Vec<_> = METHODS
        .iter()
        .copied()
        .filter(|name| noun(name) == noun(method))
        .collect();
    match same.is_empty() {
        true => METHODS.to_vec(),
        false => same,
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}
