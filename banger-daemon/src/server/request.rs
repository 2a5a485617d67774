//! From a line to a request, or to the reason why it is none.

use serde_json::{Map, Value};

use super::fault::Fault;
use crate::protocol::STREAM_OPEN;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    /// Carry out a method, and answer with this id.
    Call {
        id: u64,
        method: String,
        params: Value,
    },
    /// Make this connection a stream.
    Stream { ticket: String },
}

/// A line that is no request.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its id, where one can be made out.
    pub(super) id: Option<u64>,
    pub(super) fault: Fault,
}

/// Reads a line, telling whoever sent it what is wrong with it.
pub(super) fn read(line: &[u8]) -> Result<Asked, Refused> {
    let value: Value = serde_json::from_slice(line).map_err(|error| Refused {
        id: None,
        fault: Fault::NotJson {
            reason: error.to_string(),
        },
    })?;
    let Value::Object(mut fields) = value else {
        return Err(refused(
            None,
            "a request is a JSON object; batches are not taken",
        ));
    };
    let id = match fields.get("id") {
        None | Some(Value::Null) => None,
        Some(id) => match id.as_u64() {
            Some(id) => Some(id),
            None => return Err(refused(None, "its id is not a whole number from 0 on")),
        },
    };
    if fields.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(refused(id, "its jsonrpc is not \"2.0\""));
    }
    let Some(Value::String(method)) = fields.remove("method") else {
        return Err(refused(id, "it has no method"));
    };
    let params = match fields.remove("params") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(params @ Value::Object(_)) => params,
        Some(_) => return Err(refused(id, "its params are not a JSON object")),
    };
    match id {
        _ if method == STREAM_OPEN => match params.get("ticket").and_then(Value::as_str) {
            Some(ticket) => Ok(Asked::Stream {
                ticket: ticket.to_owned(),
            }),
            None => Err(refused(id, "it has no ticket")),
        },
        Some(id) => Ok(Asked::Call { id, method, params }),
        None => Err(refused(None, "it has no id, and so cannot be answered")),
    }
}

fn refused(id: Option<u64>, reason: &'static str) -> Refused {
    Refused {
        id,
        fault: Fault::NoRequest { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{CODE_INVALID_REQUEST, CODE_PARSE};

    #[test]
    fn junk_is_told_apart_and_keeps_its_id_where_it_has_one() {
        let deep = "[".repeat(100_000);
        let table: &[(&[u8], i64, Option<u64>)] = &[
            (b"junk", CODE_PARSE, None),
            (b"\xff\xfe", CODE_PARSE, None),
            (b"{\"jsonrpc\":\"2.0\",", CODE_PARSE, None),
            (deep.as_bytes(), CODE_PARSE, None),
            (b"[]", CODE_INVALID_REQUEST, None),
            (b"null", CODE_INVALID_REQUEST, None),
            (b"{}", CODE_INVALID_REQUEST, None),
            (
                br#"{"jsonrpc":"1.0","id":3,"method":"vm.list"}"#,
                CODE_INVALID_REQUEST,
                Some(3),
            ),
            (
                br#"{"jsonrpc":"2.0","id":4}"#,
                CODE_INVALID_REQUEST,
                Some(4),
            ),
            (
                br#"{"jsonrpc":"2.0","id":5,"method":7}"#,
                CODE_INVALID_REQUEST,
                Some(5),
            ),
            (
                br#"{"jsonrpc":"2.0","id":"a","method":"vm.list"}"#,
                CODE_INVALID_REQUEST,
                None,
            ),
            (
                br#"{"jsonrpc":"2.0","id":-1,"method":"vm.list"}"#,
                CODE_INVALID_REQUEST,
                None,
            ),
            (
                br#"{"jsonrpc":"2.0","method":"vm.list"}"#,
                CODE_INVALID_REQUEST,
                None,
            ),
            (
                br#"{"jsonrpc":"2.0","id":6,"method":"vm.list","params":[1]}"#,
                CODE_INVALID_REQUEST,
                Some(6),
            ),
            (
                br#"{"jsonrpc":"2.0","method":"stream.open"}"#,
                CODE_INVALID_REQUEST,
                None,
            ),
        ];
        for (line, code, id) in table {
            let text = String::from_utf8_lossy(&line[..line.len().min(60)]);
            let refused = read(line).expect_err(&text);
            assert_eq!(refused.id, *id, "{text}");
            assert_eq!(
                refused.fault.into_rpc("op".to_owned()).code,
                *code,
                "{text}"
            );
        }
    }

    #[test]
    fn parameters_may_be_left_out() {
        let asked = read(br#"{"jsonrpc":"2.0","id":1,"method":"vm.list"}"#).unwrap();
        let params = Value::Object(Map::new());
        let method = "vm.list".to_owned();
        assert_eq!(
            asked,
            Asked::Call {
                id: 1,
                method,
                params
            }
        );
    }
}
