//! The supervisor's only thread: waits for whatever happens next, and does what it asks for.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use anyhow::Context;
use berth_netns::PortProtocol;
use berth_runtime::Child;
use berth_runtime::cgroup::Cgroup;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::connection::Connection;
use super::container::{self, Supervised};
use super::datagrams::{Datagrams, Source};
use super::forward::{Forward, Published};
use super::protocol::{
    Exec, Files, Message, PROTOCOL, Plan, PublishedPorts, Request, State, Status,
    supervisor_cgroup, task_cgroup,
};
use super::spec;

/// Everything that a supervisor has.
pub struct Supervisor {
    plan: Plan,
    files: Files,
    listener: UnixListener,
    cgroup: Option<Cgroup>,
    warnings: Vec<String>,
    /// What is known of each container, in the plan's order.
    statuses: Vec<Status>,
    /// The containers that were started, by their place in the plan.
    started: HashMap<usize, Supervised>,
    connections: HashMap<u64, Connection>,
    execs: HashMap<u64, Child>,
    published: Vec<Published>,
    datagrams: Datagrams,
    forwards: HashMap<u64, Forward>,
    last_id: u64,
    /// Why nothing can run here: a limit that can't be applied, a port that is taken.
    trouble: Option<String>,
}

/// What became ready.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Listener,
    Connection(u64),
    Exit(usize),
    Output(usize, usize),
    Exec(u64),
    Published(usize),
    Forward(u64),
    Datagrams(Source),
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl Supervisor {
    /// Makes the task's cgroup and takes its ports.
    pub fn new(plan: Plan, files: Files, listener: UnixListener) -> anyhow::Result<Self> {
        let own = Cgroup::create(supervisor_cgroup(&plan.task))
            .context("making the supervisor's cgroup")?;
        own.add(Pid::this())
            .context("entering the supervisor's cgroup")?;
        let statuses = plan
            .containers
            .iter()
            .map(|container| Status::pending(&container.name))
            .collect();
        std::fs::create_dir_all(files.folder().join("status"))
            .context("making the folder of statuses")?;
        Ok(Self {
            plan,
            files,
            listener,
            cgroup: None,
            warnings: Vec::new(),
            statuses,
            started: HashMap::new(),
            connections: HashMap::new(),
            execs: HashMap::new(),
            published: Vec::new(),
            datagrams: Datagrams::new(),
            forwards: HashMap::new(),
            last_id: 0,
            trouble: None,
        })
    }

    /// What has to be there before the first container.
    fn prepare(&mut self) -> anyhow::Result<()> {
        for PublishedPorts { address, ports } in &self.plan.published {
            for publish in ports {
                match publish.protocol {
                    PortProtocol::Tcp => {
                        let bound = Published::bind(publish, *address)?;
                        self.published.extend(bound);
                    }
                    PortProtocol::Udp => self.datagrams.bind(publish, *address)?,
                }
            }
        }
        let cgroup =
            Cgroup::create(task_cgroup(&self.plan.task)).context("making the task's cgroup")?;
        let limits = container::limits(self.plan.limits);
        let warnings = cgroup
            .apply(&spec::task_resources(&self.plan)?, limits)
            .context("limiting the task")?;
        self.warnings
            .extend(warnings.iter().map(ToString::to_string));
        self.cgroup = Some(cgroup);
        Ok(())
    }

    /// Serves until the agent says that it is over. What can't be prepared is told to the agent,
    /// which then ends the task.
    pub fn run(mut self) -> anyhow::Result<()> {
        self.trouble = self.prepare().err().map(|error| format!("{error:#}"));
        loop {
            for ready in self.wait()? {
                if self.handle(ready) == Next::End {
                    return Ok(());
                }
            }
            for supervised in self.started.values_mut() {
                supervised.enforce_deadline();
            }
        }
    }

    fn wait(&self) -> anyhow::Result<Vec<Ready>> {
        let watched = self.watched();
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .map(|(_, fd, flags)| PollFd::new(*fd, *flags))
            .collect();
        let deadline = self.started.values().filter_map(Supervised::deadline).min();
        // Rounded up, so as not to wake just before the deadline and spin.
        let timeout =
            deadline.map(|at| at.saturating_duration_since(Instant::now()).as_millis() + 1);
        let timeout = timeout.map_or(PollTimeout::NONE, |ms| {
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("waiting for something to happen"),
        }
        let ready = fds
            .iter()
            .zip(&watched)
            .filter(|(fd, _)| fd.any().unwrap_or(false));
        Ok(ready.map(|(_, (what, ..))| *what).collect())
    }

    fn watched(&self) -> Vec<(Ready, BorrowedFd<'_>, PollFlags)> {
        let mut all = vec![(Ready::Listener, self.listener.as_fd(), PollFlags::POLLIN)];
        // Outputs before exits: what was printed goes to the log before the end is told.
        for (i, supervised) in &self.started {
            all.extend(
                supervised
                    .outputs()
                    .map(|(k, fd)| (Ready::Output(*i, k), fd, PollFlags::POLLIN)),
            );
            all.extend(
                supervised
                    .pidfd()
                    .map(|fd| (Ready::Exit(*i), fd, PollFlags::POLLIN)),
            );
        }
        all.extend(
            self.connections
                .iter()
                .map(|(id, c)| (Ready::Connection(*id), c.as_fd(), PollFlags::POLLIN)),
        );
        all.extend(
            self.execs
                .iter()
                .map(|(id, child)| (Ready::Exec(*id), child.pidfd(), PollFlags::POLLIN)),
        );
        if Published::may_accept(self.forwards.len()) {
            let published = self.published.iter().enumerate();
            all.extend(published.map(|(i, p)| (Ready::Published(i), p.as_fd(), PollFlags::POLLIN)));
        }
        let datagrams = self.datagrams.sources();
        all.extend(datagrams.map(|(source, fd)| (Ready::Datagrams(source), fd, PollFlags::POLLIN)));
        for (id, forward) in &self.forwards {
            let interest = forward
                .interest()
                .into_iter()
                .filter(|(_, flags)| !flags.is_empty());
            all.extend(interest.map(|(fd, flags)| (Ready::Forward(*id), fd, flags)));
        }
        all
    }

    fn handle(&mut self, ready: Ready) -> Next {
        match ready {
            Ready::Listener => self.greet(),
            Ready::Connection(id) => return self.serve(id),
            Ready::Exit(i) => self.collect(i),
            Ready::Output(i, which) => {
                if let Some(supervised) = self.started.get_mut(&i) {
                    supervised.drain(which);
                }
            }
            Ready::Exec(id) => self.collect_exec(id),
            Ready::Published(i) => self.forward(i),
            Ready::Datagrams(source) => self.datagrams.pump(source),
            Ready::Forward(id) => {
                if self
                    .forwards
                    .get_mut(&id)
                    .is_some_and(|forward| !forward.pump())
                {
                    self.forwards.remove(&id);
                }
            }
        }
        Next::GoOn
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn greet(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut connection = Connection::new(stream);
        let task = self.plan.task.clone();
        let mut greeting = vec![Message::Hello {
            protocol: PROTOCOL,
            task,
            warnings: self.warnings.clone(),
        }];
        greeting.extend(self.statuses.iter().cloned().map(Message::Status));
        let trouble = self.trouble.clone();
        greeting.extend(trouble.map(|reason| Message::Failed { reason }));
        if greeting
            .iter()
            .all(|message| connection.send(message).is_ok())
        {
            let id = self.new_id();
            self.connections.insert(id, connection);
        }
    }

    fn serve(&mut self, id: u64) -> Next {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else {
                return Next::GoOn;
            };
            let request = match connection.message::<Request>() {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(error) => {
                    eprintln!("a message that is none: {error}");
                    self.hang_up(id);
                    return Next::GoOn;
                }
            };
            match request {
                Request::Start { container } => self.start(&container),
                Request::Stop { container, timeout } => self.stop(&container, timeout),
                Request::Exec(exec) => self.exec(id, &exec),
                Request::Shutdown => {
                    self.shut_down();
                    self.send(id, &Message::Bye);
                    return Next::End;
                }
            }
        }
        let filled = self.connections.get_mut(&id).map(Connection::fill);
        match filled {
            Some(Ok(true)) => {
                // A whole message may have come: look again at once.
                if self
                    .connections
                    .get(&id)
                    .is_some_and(Connection::has_message)
                {
                    self.serve(id)
                } else {
                    Next::GoOn
                }
            }
            _ => {
                self.hang_up(id);
                Next::GoOn
            }
        }
    }

    fn hang_up(&mut self, id: u64) {
        self.connections.remove(&id);
        // Whoever asked for the program is gone, as when a terminal closes.
        if let Some(child) = self.execs.get(&id)
            && let Err(error) = child.kill(nix::sys::signal::Signal::SIGHUP)
        {
            eprintln!("hanging up on a program: {error}");
        }
    }

    fn send(&mut self, id: u64, message: &Message) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.send(message).is_err()
        {
            self.connections.remove(&id);
        }
    }

    fn index(&self, container: &str) -> Option<usize> {
        self.plan
            .containers
            .iter()
            .position(|planned| planned.name == container)
    }

    /// Puts a status on disk, then tells everyone.
    fn publish_status(&mut self, i: usize, status: Status) {
        if let Err(error) = self.files.write_status(&status) {
            eprintln!("writing the status of {}: {error}", status.container);
        }
        let message = Message::Status(status.clone());
        if let Some(known) = self.statuses.get_mut(i) {
            *known = status;
        }
        self.connections
            .retain(|_, connection| connection.send(&message).is_ok());
    }

    fn start(&mut self, container: &str) {
        // The agent may ask before it has read that there is trouble.
        if self.trouble.is_some() {
            return;
        }
        let Some(i) = self.index(container) else {
            return;
        };
        let (Some(planned), Some(known)) = (self.plan.containers.get(i), self.statuses.get(i))
        else {
            return;
        };
        if known.state != State::Pending {
            return;
        }
        // On disk before there is anything to lose: if this process dies meanwhile, nobody may
        // think that the program never ran, and run it again.
        let unfinished = "CannotStartContainerError: its supervisor died while it was started";
        let starting = Status {
            state: State::Failed {
                reason: unfinished.to_owned(),
            },
            ..known.clone()
        };
        if let Err(error) = self.files.write_status(&starting) {
            eprintln!("writing the status of {container}: {error}");
        }
        let status = match container::start(&self.plan, &self.files, planned, &mut self.warnings) {
            Ok((supervised, status)) => {
                self.started.insert(i, supervised);
                status
            }
            Err(reason) => Status {
                state: State::Failed { reason },
                ..known.clone()
            },
        };
        self.publish_status(i, status);
    }

    fn stop(&mut self, container: &str, timeout: u32) {
        if let Some(supervised) = self.index(container).and_then(|i| self.started.get_mut(&i)) {
            supervised.stop(timeout);
        }
    }

    fn collect(&mut self, i: usize) {
        let Some(state) = self.started.get_mut(&i).and_then(Supervised::take_exit) else {
            return;
        };
        let Some(known) = self.statuses.get(i).cloned() else {
            return;
        };
        let finished = Some(crate::id::Timestamp::now());
        self.publish_status(
            i,
            Status {
                state,
                finished,
                ..known
            },
        );
        // With it go its root filesystem's mount and its log's file.
        self.started.remove(&i);
    }

    fn exec(&mut self, id: u64, exec: &Exec) {
        let descriptors = self
            .connections
            .get_mut(&id)
            .map(Connection::take_descriptors)
            .unwrap_or_default();
        let running = self
            .index(&exec.container)
            .and_then(|i| self.started.get(&i));
        let result = match running {
            _ if self.execs.contains_key(&id) => Err(anyhow::anyhow!(
                "a program runs already over this connection"
            )),
            Some(supervised) => supervised.exec(exec, descriptors),
            None => Err(anyhow::anyhow!(
                "container '{}' isn't running",
                exec.container
            )),
        };
        match result {
            Err(error) => self.send(
                id,
                &Message::Failed {
                    reason: format!("{error:#}"),
                },
            ),
            Ok(mut child) => {
                let console = child.take_console();
                let terminal: Vec<_> = console.iter().map(AsFd::as_fd).collect();
                if let Some(connection) = self.connections.get_mut(&id) {
                    let sent = if terminal.is_empty() {
                        connection.send(&Message::ExecStarted)
                    } else {
                        connection.send_with(&Message::ExecStarted, &terminal)
                    };
                    if let Err(error) = sent {
                        eprintln!("answering an exec: {error}");
                    }
                }
                self.execs.insert(id, child);
            }
        }
    }

    fn collect_exec(&mut self, id: u64) {
        let Some(Ok(Some(status))) = self.execs.get(&id).map(Child::try_wait) else {
            return;
        };
        self.execs.remove(&id);
        self.send(
            id,
            &Message::ExecExited {
                code: status.code(),
            },
        );
    }

    fn forward(&mut self, i: usize) {
        match self.published.get(i).map(Published::accept) {
            Some(Ok(Some(forward))) => {
                let id = self.new_id();
                self.forwards.insert(id, forward);
            }
            Some(Err(error)) => eprintln!("forwarding a connection: {error}"),
            Some(Ok(None)) | None => {}
        }
    }

    /// Ends whatever still runs, and undoes what was made.
    fn shut_down(&mut self) {
        // Before the containers: a PID namespace ends only once the processes that came into it
        // from outside are collected, and those are ours.
        for (_, child) in self.execs.drain() {
            let ended = child.kill(nix::sys::signal::Signal::SIGKILL);
            if let Err(error) = ended.and_then(|()| child.wait().map(drop)) {
                eprintln!("ending a program in a container: {error}");
            }
        }
        let left: Vec<usize> = self.started.keys().copied().collect();
        for i in left {
            if let Some(supervised) = self.started.get(&i) {
                supervised.kill();
                supervised.wait_for_end();
            }
            self.collect(i);
        }
        self.published.clear();
        self.datagrams = Datagrams::new();
        self.forwards.clear();
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            eprintln!("removing the task's cgroup: {error}");
        }
    }
}
