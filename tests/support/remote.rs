// SPDX-License-Identifier: LGPL-2.1-or-later
//! The bed's daemon as a remote host: by TCP, so that its files are not taken for this machine's.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use livedisk::{Connection, EventLoop};

use super::bed::Bed;

/// A connection by way of 127.0.0.1.
pub fn connect(bed: &Bed) -> Connection {
    let (address, socket) = bed.uri.split_once("?socket=").unwrap();
    let path = address.rsplit('/').next().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = socket.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = UnixStream::connect(&socket).unwrap();
            join(client, server).unwrap();
        }
    });
    let uri = format!("qemu+tcp://127.0.0.1:{port}/{path}");
    Connection::open(Some(&uri), EventLoop::Own).unwrap()
}

fn join(client: TcpStream, server: UnixStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let (mut from, mut to) = (server, client);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}
