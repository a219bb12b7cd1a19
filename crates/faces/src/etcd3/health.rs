//! The health service that gRPC defines. It knows one service, the whole member, named "".

use std::sync::Arc;

use ::http::Response;
use quorate_wire::health as pb;
use quorate_wire::health::health_check_response::ServingStatus;

use super::Thread;
use super::call::Answer;
use super::errors::{Code, STOPPED, Status};
use super::grpc::{self, CallBody, Messages};
use super::metrics::Started;
use crate::listener::{Body, outgoing};

const UNKNOWN_SERVICE: Status = Status::new(Code::NotFound, "unknown service");
/// Queued for one client that does not read.
const QUEUED_BYTES_MAX: usize = 1024;

impl Thread {
    fn serving(&self) -> ServingStatus {
        if self.handle().status().failed.is_none() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }

    pub(super) fn health_check(&self, request: &pb::HealthCheckRequest) -> Result<Answer, Status> {
        if !request.service.is_empty() {
            return Err(UNKNOWN_SERVICE);
        }
        Ok(Answer::message(&pb::HealthCheckResponse { status: self.serving().into() }))
    }

    pub(super) fn health_list(&self, _request: &pb::HealthListRequest) -> Result<Answer, Status> {
        let status = pb::HealthCheckResponse { status: self.serving().into() };
        Ok(Answer::message(&pb::HealthListResponse { statuses: [(String::new(), status)].into() }))
    }
}

/// Tells the status, and each change of it.
pub(super) async fn watch(
    thread: Arc<Thread>,
    mut messages: Messages<CallBody>,
    mut started: Started,
) -> Response<Body> {
    let message = messages.only().await;
    let bytes = message.as_ref().map_or(0, bytes::Bytes::len);
    let request = message.and_then(grpc::decode::<pb::HealthCheckRequest>);
    let request = match request {
        Ok(request) => request,
        Err(status) => {
            started.end(status.code);
            return grpc::response_status(&status);
        }
    };
    started.received(bytes);
    let (outgoing, body) = outgoing();
    tokio::spawn(async move {
        let mut told = None;
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(500));
        loop {
            let now =
                if request.service.is_empty() { thread.serving() } else { ServingStatus::ServiceUnknown };
            if told != Some(now) && outgoing.queued_bytes() < QUEUED_BYTES_MAX {
                told = Some(now);
                let message = grpc::framed(&pb::HealthCheckResponse { status: now.into() });
                started.sent(message.len());
                outgoing.push(message);
            }
            tokio::select! {
                _ = tick.tick() => {}
                () = thread.stopping.begun() => {
                    started.end(STOPPED.code);
                    return outgoing.finish(grpc::trailers(&STOPPED));
                }
                () = outgoing.gone() => return started.end(Code::Canceled),
            }
        }
    });
    grpc::response(body)
}
