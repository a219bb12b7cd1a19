//! One member that speaks etcd v3, with `--v2` the v2 API beside it, or with `--v04` that of etcd 0.4 alone, for trying
//! clients against it: `member [--v04 | --v2] NAME CLIENT_ADDR PEER_ADDR NAME=http://PEER_ADDR[,NAME=...] [DATA_DIR]`

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_faces::etcd2::{self, Dialect, Etcd2};
use quorate_faces::etcd3::{self, Etcd3};
use quorate_faces::listener::{Face, ListenConfig, serve};
use quorate_member::{Config, start};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("info").init();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let dialect = match arguments.first().map(String::as_str) {
        Some("--v04") => Some(Dialect::V04),
        Some("--v2") => Some(Dialect::V2),
        _ => None,
    };
    arguments.drain(..usize::from(dialect.is_some()));
    let [name, client, peer, cluster, rest @ ..] = &arguments[..] else {
        return Err("usage: member [--v04 | --v2] NAME CLIENT_ADDR PEER_ADDR NAME=URL,... [DATA_DIR]".into());
    };
    let client: SocketAddr = client.parse()?;
    let members = cluster.split(',').map(|part| {
        let (name, url) = part.split_once('=').ok_or("a member is NAME=URL")?;
        Ok((name.to_owned(), url.to_owned()))
    });
    let config = Config {
        data_dir: rest.first().map(Into::into),
        listen_peer: vec![peer.parse()?],
        advertise_peer_urls: vec![format!("http://{peer}")],
        advertise_client_urls: vec![format!("http://{client}")],
        initial_cluster: members.collect::<Result<_, &str>>()?,
        ..Config::new(name.as_str())
    };
    let client_urls = config.advertise_client_urls.clone();
    let running = start(config)?;
    let mut faces: Vec<Arc<dyn Face>> = Vec::new();
    if let Some(dialect) = dialect {
        let config = etcd2::Config::new(dialect, name.as_str());
        faces.push(Arc::new(Etcd2::new(running.handle(), config)));
    }
    if dialect != Some(Dialect::V04) {
        faces.push(Arc::new(Etcd3::new(running.handle(), etcd3::Config::default())));
    }
    let serving = serve(ListenConfig::new(vec![client]), faces)?;
    println!("serving on {:?}", serving.addrs());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        while running.publish(name, &client_urls).await.is_err() {}
        let mut stopped = running.stopped();
        let _ = stopped.wait_for(Option::is_some).await;
    });
    serving.stop();
    running.stop();
    Ok(())
}
