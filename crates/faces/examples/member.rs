//! One member that speaks etcd v3, for trying clients against it:
//! `member NAME CLIENT_ADDR PEER_ADDR NAME=http://PEER_ADDR[,NAME=...] [DATA_DIR]`

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_faces::etcd3::{self, Etcd3};
use quorate_faces::listener::{ListenConfig, serve};
use quorate_member::{Config, start};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("info").init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, client, peer, cluster, rest @ ..] = &arguments[..] else {
        return Err("usage: member NAME CLIENT_ADDR PEER_ADDR NAME=URL,... [DATA_DIR]".into());
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
    let face = Etcd3::new(running.handle(), etcd3::Config::default());
    let serving = serve(ListenConfig::new(vec![client]), vec![Arc::new(face)])?;
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
