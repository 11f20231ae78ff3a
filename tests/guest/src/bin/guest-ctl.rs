// SPDX-License-Identifier: LGPL-2.1-or-later
//! Sends one line to a guest's control socket and prints the answer. Usage: `guest-ctl SOCKET COMMAND...`
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn ask(socket: &str, command: &str) -> std::io::Result<String> {
    let mut stream = BufReader::new(UnixStream::connect(socket)?);
    stream.get_ref().set_read_timeout(Some(Duration::from_secs(10)))?;
    if command != "clock" {
        return exchange(&mut stream, command);
    }
    // After a first exchange the guest waits in a read, and what follows arrives at once.
    exchange(&mut stream, "stats")?;
    // The guest's clock is late by as much as the line was on its way. The busier the machine, the less can be asked of it.
    let mut limit = Duration::ZERO;
    loop {
        limit += Duration::from_millis(2);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(std::io::Error::other)?;
        let sent = Instant::now();
        let answer = exchange(&mut stream, &format!("clock {}", now.as_nanos()))?;
        if sent.elapsed() <= limit {
            return Ok(answer);
        }
        thread::sleep(limit);
    }
}

fn exchange(stream: &mut BufReader<UnixStream>, line: &str) -> std::io::Result<String> {
    stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, command @ ..] = arguments.as_slice() else {
        eprintln!("guest-ctl: expected SOCKET COMMAND...");
        return ExitCode::from(2);
    };
    match ask(socket, &command.join(" ")) {
        Ok(answer) => {
            println!("{answer}");
            // poweroff ends the guest before it can answer.
            let gone = answer.is_empty() && command == ["poweroff"];
            if gone || answer == "ok" || answer.starts_with("ok ") {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("guest-ctl: {socket}: {error}; is the guest running, and nobody else connected?");
            ExitCode::FAILURE
        }
    }
}
