//! What a machine does beside serving: it makes itself known, says where it is when it comes back, remembers where the
//! others are, renews its registration for discovery, and does the leader's work while it leads.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_faces::etcd2::peer::{self, ClusterSettings, Registry};
use quorate_member::{Handle, Member, MembershipRequest};
use quorate_tls::Connector;
use tokio::sync::watch;

use super::discovery::{Discovery, RENEWAL};
use super::marker::Marker;
use super::server::PROTOCOL;
use super::web::Ask;

/// Between two tries of what did not work for want of a majority or of a peer.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_SLOWLY: Duration = Duration::from_secs(1);
/// The leader's work waits for so long for what this machine has to say of itself.
const OWN_FIRST_MAX: Duration = Duration::from_secs(5);

/// What it takes to do so.
pub(crate) struct Machine {
    pub handle: Handle,
    pub name: String,
    pub client_url: String,
    pub peer_url: String,
    /// Peers that were named at the start, or are remembered from before.
    pub peers: Vec<String>,
    pub data_dir: PathBuf,
    pub tls: Option<Arc<Connector>>,
    pub founded: ClusterSettings,
    pub discovery: Option<Discovery>,
}

/// The thread that does it. Dropped, it stops.
pub(crate) struct Background {
    stop: watch::Sender<bool>,
    known: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub fn start(machine: Machine) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, mut stopping) = watch::channel(false);
        let (tell, known) = watch::channel(false);
        let thread = std::thread::Builder::new().name("quorate-etcd2".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = machine.run(tell) => {}
                    _ = stopping.wait_for(|stopping| *stopping) => {}
                }
            });
            // A name that does not resolve may hold a thread of the runtime up.
            runtime.shutdown_background();
        })?;
        Ok(Self { stop, known, thread: Some(thread) })
    }

    /// Turns true once the tree lists this machine, and everybody knows where it is.
    pub fn known(&self) -> watch::Receiver<bool> {
        self.known.clone()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Machine {
    async fn run(self, known: watch::Sender<bool>) {
        let (told, mut is_told) = watch::channel(false);
        let own = async {
            tokio::join!(self.say_where(), self.publish());
            told.send_replace(true);
            self.wait_until_known().await;
            known.send_replace(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = own => {}
            () = async {
                // What this machine is about to say of itself is listed once, not before and after.
                let _ = tokio::time::timeout(OWN_FIRST_MAX, is_told.wait_for(|told| *told)).await;
                peer::keep(self.handle.clone(), self.founded).await;
            } => {}
            () = self.remember_peers() => {}
            () = self.renew() => {}
        }
    }

    fn own(&self) -> Option<Member> {
        let me = self.handle.identity().member;
        self.handle.members().iter().find(|member| member.id == me).cloned()
    }

    /// Makes name and client URL known, where the member list has others.
    async fn publish(&self) {
        let client_urls = vec![self.client_url.clone()];
        loop {
            let is_current = self.handle.read_index().await.is_ok();
            match self.own() {
                Some(own) if own.name == self.name && own.client_urls == client_urls => return,
                Some(own) if is_current => {
                    let request = MembershipRequest::Publish {
                        id: own.id,
                        name: self.name.clone(),
                        client_urls: client_urls.clone(),
                    };
                    if let Err(error) = self.handle.change_membership(request).await {
                        tracing::debug!(%error, "this machine's client address is not published yet");
                    }
                }
                _ => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Where the member list has another peer URL: tells the cluster the new one. The others dial the old one, so that
    /// this machine hears nothing of them: it asks them over HTTP.
    async fn say_where(&self) {
        let here = [self.peer_url.clone()];
        let is_told = || self.own().is_some_and(|own| own.peer_urls == here);
        if is_told() {
            return;
        }
        tracing::info!(url = self.peer_url, "this machine has a new peer address; telling the others");
        let me = self.handle.identity();
        let body = peer::announcement(me.cluster, me.member, &self.peer_url, &self.client_url);
        let mut told_by: Option<String> = None;
        while !is_told() {
            if self.handle.status().is_leader {
                let update = MembershipRequest::Update { id: me.member, peer_urls: here.to_vec() };
                if self.handle.change_membership(update).await.is_ok() {
                    continue;
                }
            }
            for url in self.others() {
                let url = format!("{}/v2/admin/machines/{}", url.trim_end_matches('/'), self.name);
                let answer = Ask::put_json(&url, body.clone()).send(self.tls.as_deref()).await;
                let said = match &answer {
                    Ok(answer) if answer.status == 200 => break,
                    Ok(answer) => answer.text(),
                    Err(error) => error.to_string(),
                };
                if told_by.as_ref() != Some(&said) {
                    tracing::warn!("the cluster did not take this machine's new peer address: {said}");
                    told_by = Some(said);
                }
            }
            tokio::time::sleep(RETRY_SLOWLY).await;
        }
    }

    /// Where other machines may be.
    fn others(&self) -> Vec<String> {
        let mut urls = self.peers.clone();
        let me = self.handle.identity().member;
        for member in self.handle.members().iter().filter(|member| member.id != me) {
            urls.extend(member.peer_urls.iter().cloned());
        }
        urls.sort();
        urls.dedup();
        urls.retain(|url| *url != self.peer_url);
        urls
    }

    async fn wait_until_known(&self) {
        let registry = Registry { handle: self.handle.clone() };
        let mut visible = self.handle.visible();
        loop {
            match registry.is_known(&self.name).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the list of machines can't be read yet"),
            }
            if visible.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps the marker's list of peers up to date.
    async fn remember_peers(&self) {
        let mut written: Option<Arc<Vec<Member>>> = None;
        loop {
            let members = self.handle.members();
            if written.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &members)) {
                let me = self.handle.identity().member;
                let others = members.iter().filter(|member| member.id != me);
                let peers: Vec<String> = others.flat_map(|member| member.peer_urls.clone()).collect();
                let is_written = Marker::read(&self.data_dir)
                    .is_ok_and(|marker| marker.is_some_and(|marker| marker.peers == peers));
                if !is_written
                    && let Err(error) = (Marker { peers, ..Marker::new(PROTOCOL) }).write(&self.data_dir)
                {
                    tracing::warn!(%error, "the other machines' addresses are not remembered");
                }
                written = Some(members);
            }
            tokio::time::sleep(RETRY_SLOWLY).await;
        }
    }

    async fn renew(&self) {
        let Some(discovery) = &self.discovery else { return std::future::pending().await };
        loop {
            tokio::time::sleep(RENEWAL).await;
            if let Err(error) = discovery.register().await {
                tracing::warn!(%error, "the registration for discovery was not renewed");
            }
        }
    }
}
