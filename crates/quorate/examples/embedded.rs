//! A member inside this program: `cargo run -p quorate --example embedded`.
//!
//! It keeps its data in memory; `data_dir` in the place of `memory_only` keeps it in a folder.

use quorate::{Config, Server};

#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::new("m1")
        .memory_only()
        .listen_client_urls(["http://127.0.0.1:0"])
        .listen_peer_urls(["http://127.0.0.1:0"]);
    let server = Server::start(config)?;
    server.ready().await?;

    let client = server.client();
    client.put("greeting", "hello").await?;
    let found = client.get("greeting").await?.ok_or("it was just written")?;
    println!("greeting = {}", String::from_utf8_lossy(&found.value));
    println!("other programs reach this member at {}", server.client_addrs()[0]);

    server.shutdown().await;
    Ok(())
}
