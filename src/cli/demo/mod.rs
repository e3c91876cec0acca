//! `tollgate demo`: real requests through the real proxy to an upstream of its own, all on loopback, and what each side saw of them.
//!
//! Each step of the tour also checks that it went as it must; if one did not, the exit status is 1.

mod sandbox;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::loopback::Answer;
use super::{Failure, Terminal};
use sandbox::Request;
use stage::{BASE_KEY, FORK_KEY, Stage};

/// Show what Tollgate does: a tour of real requests through the real proxy, on loopback, in a second. Leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tollgate demo")]
pub(super) struct Demo {}

/// The tour takes about a second.
const DEADLINE: Duration = Duration::from_secs(30);

impl Demo {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let Self {} = self;
        let tour = async { tokio::time::timeout(DEADLINE, tour(terminal)).await };
        let as_expected = super::runtime()?.block_on(tour)??;
        Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// One step of the tour: what was done, what each side saw, and whether that is what must happen.
struct Step {
    title: &'static str,
    sent: String,
    received: String,
    verdict: String,
    why: String,
    as_expected: bool,
}

async fn tour(terminal: &mut Terminal) -> Result<bool, Failure> {
    let stage = Stage::set().await?;
    terminal.print(&introduction(&stage, terminal))?;
    let steps = [
        bound(&stage).await?,
        misdirected(&stage).await?,
        not_listed(&stage).await?,
        forked(&stage).await?,
        echoed(&stage).await?,
        introspected(&stage).await?,
    ];
    stage.strike().await;
    let mut as_expected = true;
    for (nth, step) in (1..).zip(&steps) {
        terminal.print(&step.rendered(nth, terminal))?;
        as_expected &= step.as_expected;
    }
    terminal.print(&ending(as_expected, terminal))?;
    Ok(as_expected)
}

async fn bound(stage: &Stage) -> Result<Step, Failure> {
    let request = stage.team().get("https://models.example.com/v1/models").with_key("MODEL_KEY");
    let answer = request.send().await?;
    let key = stage.take_key();
    Ok(Step {
        title: "A sealed token reaches the host that it is bound to as the real key",
        as_expected: answer.status == 200 && key.as_deref() == Some(BASE_KEY),
        received: shown(key.as_deref()),
        verdict: verdict(&answer),
        why: request.why()?,
        sent: request.to_string(),
    })
}

async fn misdirected(stage: &Stage) -> Result<Step, Failure> {
    let request = stage.team().get("https://git.example.com/collect").with_key("MODEL_KEY");
    let answer = request.send().await?;
    let key = stage.take_key();
    Ok(Step {
        title: "The same token to another listed host, to which it is not bound",
        as_expected: answer.is_denied(403, "secret_misdirected") && key.is_none(),
        received: shown(key.as_deref()),
        verdict: verdict(&answer),
        why: answer.detail(),
        sent: request.to_string(),
    })
}

async fn not_listed(stage: &Stage) -> Result<Step, Failure> {
    let request = stage.team().get("https://paste.example.net/new").with_key("MODEL_KEY");
    let answer = request.send().await?;
    let key = stage.take_key();
    Ok(Step {
        title: "A host that no layer lists: refused before there is a connection",
        as_expected: answer.is_denied(403, "host_not_allowed") && !answer.tunnel && key.is_none(),
        received: shown(key.as_deref()),
        verdict: verdict(&answer),
        why: answer.detail(),
        sent: request.to_string(),
    })
}

async fn forked(stage: &Stage) -> Result<Step, Failure> {
    let request = stage.fork().get("https://models.example.com/v1/models").with_key("MODEL_KEY");
    let answer = request.send().await?;
    let key = stage.take_key();
    let other_token = request.key() != stage.team().token("MODEL_KEY");
    Ok(Step {
        title: "A fork's own key takes the place of its base's",
        as_expected: answer.status == 200 && key.as_deref() == Some(FORK_KEY) && other_token,
        received: shown(key.as_deref()),
        verdict: verdict(&answer),
        why: request.why()?,
        sent: request.to_string(),
    })
}

async fn echoed(stage: &Stage) -> Result<Step, Failure> {
    let request = stage.team().get("https://models.example.com/echo").with_key("MODEL_KEY");
    let answer = request.send().await?;
    let key = stage.take_key();
    let token = request.key().unwrap_or_default();
    let header = answer.header("x-echo");
    let sealed = header == token && answer.body.contains(&token) && !answer.holds(BASE_KEY);
    Ok(Step {
        title: "An upstream that echoes the key: the answer is sealed again",
        as_expected: answer.status == 200 && key.as_deref() == Some(BASE_KEY) && sealed,
        received: format!("{}, and answers with it", shown(key.as_deref())),
        verdict: verdict(&answer),
        why: format!(
            "the sandbox reads  x-echo: {header}\n{MARGIN}and the body       {}",
            answer.body
        ),
        sent: request.to_string(),
    })
}

async fn introspected(stage: &Stage) -> Result<Step, Failure> {
    let request = stage.fork().get("http://tollgate.internal/allowed-hosts");
    let answer = request.send().await?;
    let expected =
        ["git.example.com", "models.example.com", "tools.example.com", "my-fork", "team-base"];
    Ok(Step {
        title: "What may this sandbox reach? It may ask",
        as_expected: answer.status == 200 && expected.iter().all(|part| answer.body.contains(part)),
        received: "nothing: Tollgate answers this itself".to_owned(),
        verdict: verdict(&answer),
        why: answer.body.trim_end().to_owned(),
        sent: request.to_string(),
    })
}

/// Where the second column begins.
const MARGIN: &str = "                      ";

impl Step {
    fn rendered(&self, nth: u32, terminal: &Terminal) -> String {
        let Self { title, sent, received, verdict, why, as_expected } = self;
        let colour = if verdict.starts_with("allow") { "1;32" } else { "1;31" };
        let title = terminal.style("1", &format!("{nth}. {title}"));
        let label = |text: &str| terminal.style("2", &format!("{text:<19}"));
        let mut text = format!("{title}\n");
        for (name, value) in [
            ("sandbox sends", sent.clone()),
            ("upstream receives", received.clone()),
            ("verdict", terminal.style(colour, verdict)),
            ("", why.clone()),
        ] {
            text += &format!("   {}{value}\n", label(name));
        }
        if !as_expected {
            let mark = terminal.style("1;31", "this is not what must happen");
            text += &format!("   {}{mark}\n", label(""));
        }
        text + "\n"
    }
}

fn introduction(stage: &Stage, terminal: &Terminal) -> String {
    let hold = terminal.style(
        "1",
        "Tollgate holds the keys; a sandbox holds sealed tokens that are worth nothing elsewhere.",
    );
    let (base, fork) = (masked(BASE_KEY), masked(FORK_KEY));
    format!(
        "{hold}\n\nAn HTTPS upstream and the real proxy ({}) run on loopback. Two layers:\n  \
         team-base  lists models.example.com and git.example.com; MODEL_KEY = {base}, only for models.example.com\n  \
         my-fork    lists tools.example.com as well;              MODEL_KEY = {fork}, only for models.example.com\n\
         The sandbox sb-team has the base, sb-fork has both.\n\n",
        stage.proxy()
    )
}

fn ending(as_expected: bool, terminal: &Terminal) -> String {
    if !as_expected {
        return terminal
            .style("1;31", "Not every step went as it must: please report this output.")
            + "\n";
    }
    format!(
        "{}\n  tollgate check policies\n  tollgate explain --sandbox sb-quickstart https://api.github.com/user\n  \
         tollgate run --policies policies/quickstart.yaml -- sh -c 'echo $GITHUB_TOKEN; curl -sS https://example.com'\n",
        terminal.style("1", "Try next:")
    )
}

fn verdict(answer: &Answer) -> String {
    let Answer { status, .. } = answer;
    match answer.reason() {
        None => format!("allow ({status})"),
        Some(reason) if answer.tunnel => format!("deny ({status} {reason})"),
        Some(reason) => format!("deny (CONNECT answered {status} {reason})"),
    }
}

fn shown(key: Option<&str>) -> String {
    let Some(key) = key else { return "nothing".to_owned() };
    if [BASE_KEY, FORK_KEY].contains(&key) {
        format!("x-api-key: {} (real value)", masked(key))
    } else {
        format!("x-api-key: {key}")
    }
}

/// A value as an operator may see it.
fn masked(value: &str) -> String {
    let start = value.get(..8).unwrap_or_default();
    let end = value.len().checked_sub(4).and_then(|at| value.get(at..)).unwrap_or_default();
    format!("{start}…{end}")
}

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GET {}   ({})", self.url(), self.sandbox())?;
        self.key().map_or(Ok(()), |key| write!(f, "\n{MARGIN}x-api-key: {key}"))
    }
}
