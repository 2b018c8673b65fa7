//! Where an error of promote leads: the option that helps, and the step of the customization
//! workflow to go back to.

use crate::error::Error;

/// Returns the skill of NVIDIA's workflow that repairs what the error is about.
pub(in crate::cli) fn route(error: &Error) -> Option<&'static str> {
    let is_named = |name: &str| error.path().is_some_and(|path| path.ends_with(name));
    Some(match error.code() {
        "no-workspace" | "no-target" => "/jetson-set-target",
        "bad-profile" => "/jetson-init-target",
        "no-image" | "no-initramfs-tool" => "/jetson-init-image",
        "no-source" => "/jetson-init-source",
        "stale-build" | "bad-source" | "outside-workspace" | "nothing-to-promote" => {
            "/jetson-build-source"
        }
        "syntax" | "deviation"
            if is_named(".build-manifest.yaml") || is_named(".build-state.yaml") =>
        {
            "/jetson-build-source"
        }
        "syntax" | "deviation"
            if is_named("active_target.yml") || is_named("active_target.yaml") =>
        {
            "/jetson-set-target"
        }
        _ => return None,
    })
}

/// Adds the options that help, and the route, to the help of an error.
pub(super) fn explain(error: Error) -> Error {
    let option = match error.code() {
        "deviation" => " or promote without --strict",
        "outside-workspace" => " or allow it with --allow-outside",
        "no-workspace" => " (--workspace names it)",
        _ => "",
    };
    let route = route(&error).map_or_else(String::new, |route| format!(" ({route})"));
    match error.help() {
        Some(help) if !(option.is_empty() && route.is_empty()) => {
            let help = match option {
                "" => format!("{help}{route}"),
                option if option.starts_with(" or") => format!("{help}{route},{option}"),
                option => format!("{help}{option}{route}"),
            };
            error.advice(help)
        }
        _ => error,
    }
}
