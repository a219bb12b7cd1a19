//! Transactions: comparisons, and what is done if all hold or if one does not.

use bytes::Bytes;
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::request_op::Request;
use quorate_wire::etcdserverpb::response_op::Response;

use crate::Client;
use crate::call::Plan;
use crate::error::{Error, ErrorKind, Outcome};
use crate::keys::Keys;
use crate::kv::{
    DeleteOptions, DeleteRangeResponse, PutOptions, PutResponse, RangeOptions, RangeResponse, ResponseHeader,
};

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// One comparison. Of a range of keys, each key must satisfy it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pb::Compare);

impl Compare {
    fn new(keys: Keys, is: Is, target: CompareTarget, operand: TargetUnion) -> Self {
        let result = match is {
            Is::Equal => CompareResult::Equal,
            Is::Greater => CompareResult::Greater,
            Is::Less => CompareResult::Less,
            Is::NotEqual => CompareResult::NotEqual,
        };
        Self(pb::Compare {
            result: result.into(),
            target: target.into(),
            key: keys.key,
            range_end: keys.range_end,
            target_union: Some(operand),
        })
    }

    /// The value. Never true of a key that does not exist.
    #[must_use]
    pub fn value(keys: impl Into<Keys>, is: Is, value: impl AsRef<[u8]>) -> Self {
        let value = TargetUnion::Value(Bytes::copy_from_slice(value.as_ref()));
        Self::new(keys.into(), is, CompareTarget::Value, value)
    }

    /// How often the key was written since it was created; 0 where it does not exist.
    #[must_use]
    pub fn version(keys: impl Into<Keys>, is: Is, version: i64) -> Self {
        Self::new(keys.into(), is, CompareTarget::Version, TargetUnion::Version(version))
    }

    /// The revision that created the key; 0 where it does not exist.
    #[must_use]
    pub fn create_revision(keys: impl Into<Keys>, is: Is, revision: i64) -> Self {
        Self::new(keys.into(), is, CompareTarget::Create, TargetUnion::CreateRevision(revision))
    }

    /// The revision that changed the key last; 0 where it does not exist.
    #[must_use]
    pub fn mod_revision(keys: impl Into<Keys>, is: Is, revision: i64) -> Self {
        Self::new(keys.into(), is, CompareTarget::Mod, TargetUnion::ModRevision(revision))
    }

    /// The key's lease; 0 where it has none or does not exist.
    #[must_use]
    pub fn lease(keys: impl Into<Keys>, is: Is, id: i64) -> Self {
        Self::new(keys.into(), is, CompareTarget::Lease, TargetUnion::Lease(id))
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Op(pb::RequestOp);

impl Op {
    fn new(request: Request) -> Self {
        Self(pb::RequestOp { request: Some(request) })
    }

    #[must_use]
    pub fn get(keys: impl Into<Keys>) -> Self {
        Self::get_with(keys, RangeOptions::new())
    }

    #[must_use]
    pub fn get_with(keys: impl Into<Keys>, options: RangeOptions) -> Self {
        Self::new(Request::RequestRange(options.request(keys.into())))
    }

    #[must_use]
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::put_with(key, value, PutOptions::new())
    }

    #[must_use]
    pub fn put_with(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, options: PutOptions) -> Self {
        Self::new(Request::RequestPut(options.request(key, value)))
    }

    #[must_use]
    pub fn delete(keys: impl Into<Keys>) -> Self {
        Self::delete_with(keys, DeleteOptions::new())
    }

    #[must_use]
    pub fn delete_with(keys: impl Into<Keys>, options: DeleteOptions) -> Self {
        Self::new(Request::RequestDeleteRange(options.request(keys.into())))
    }

    /// A transaction inside a transaction.
    #[must_use]
    pub fn txn(txn: Txn) -> Self {
        Self::new(Request::RequestTxn(txn.request))
    }
}

/// A transaction under construction.
///
/// ```no_run
/// use quorate_client::{Client, Compare, Is, Op, Txn};
///
/// # async fn example(client: Client) -> Result<(), quorate_client::Error> {
/// // Takes the name only if nobody has it.
/// let txn = Txn::new()
///     .when([Compare::create_revision("name", Is::Equal, 0)])
///     .and_then([Op::put("name", "me")])
///     .or_else([Op::get("name")]);
/// let answer = client.txn(txn).await?;
/// println!("it is mine: {}", answer.succeeded);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    request: pb::TxnRequest,
}

impl Txn {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of these must hold; with none, they do.
    #[must_use]
    pub fn when(mut self, compares: impl IntoIterator<Item = Compare>) -> Self {
        self.request.compare.extend(compares.into_iter().map(|compare| compare.0));
        self
    }

    /// What is done if the comparisons hold.
    #[must_use]
    pub fn and_then(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.request.success.extend(ops.into_iter().map(|op| op.0));
        self
    }

    /// What is done if they do not.
    #[must_use]
    pub fn or_else(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.request.failure.extend(ops.into_iter().map(|op| op.0));
        self
    }
}

/// What one operation answered.
#[derive(Clone, Debug, PartialEq)]
pub enum OpResponse {
    Get(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
}

/// What a transaction answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnResponse {
    pub header: Option<ResponseHeader>,
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// One for each operation of the branch taken, in its order.
    pub responses: Vec<OpResponse>,
}

impl TxnResponse {
    fn read(answer: pb::TxnResponse) -> Result<Self, Error> {
        let read = |op: pb::ResponseOp| match op.response {
            Some(Response::ResponseRange(answer)) => Ok(OpResponse::Get(answer)),
            Some(Response::ResponsePut(answer)) => Ok(OpResponse::Put(answer)),
            Some(Response::ResponseDeleteRange(answer)) => Ok(OpResponse::Delete(answer)),
            Some(Response::ResponseTxn(answer)) => Self::read(answer).map(OpResponse::Txn),
            None => Err(Error::new(ErrorKind::Other, "the server answered an operation with nothing")
                .with_outcome(Outcome::Unknown)),
        };
        let responses = answer.responses.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { header: answer.header, succeeded: answer.succeeded, responses })
    }
}

fn only_reads(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) => true,
        Some(Request::RequestTxn(inner)) => only_reads(inner),
        _ => false,
    })
}

impl Client {
    /// Carries out a transaction. One that only reads is repeated like a read where a member fails.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        let plan = if only_reads(&txn.request) { Plan::READ } else { Plan::WRITE };
        self.txn_planned(txn, plan).await
    }

    /// Carries out a transaction of which the caller knows that a second time changes nothing: where a member fails, it
    /// is sent to the next one, even if the first may have carried it out.
    pub async fn txn_repeatable(&self, txn: Txn) -> Result<TxnResponse, Error> {
        self.txn_planned(txn, Plan::READ).await
    }

    /// For transactions of which the caller knows that a second time changes nothing.
    pub(crate) async fn txn_planned(&self, txn: Txn, plan: Plan) -> Result<TxnResponse, Error> {
        let request = txn.request;
        let answer: Result<pb::TxnResponse, Error> = unary!(self, plan, KvClient, txn, request);
        TxnResponse::read(answer?)
    }
}
