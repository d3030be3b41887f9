//! Names in routes -> indices of the tables they name, with what to write where there is none.

use toml::Spanned;

use super::super::{
    document::{Text, shapes::NamesDocument},
    error::{Place, Report, distance},
};

pub(super) fn names_of(written: &Spanned<NamesDocument>) -> Vec<(Place, &str)> {
    match written.get_ref() {
        NamesDocument::One(name) => vec![(written.span().into(), name.as_str())],
        NamesDocument::Many(names) => {
            names.iter().map(|name| (name.span().into(), name.get_ref().as_str())).collect()
        }
    }
}

/// Refuses a name that stands in a list twice.
pub(super) fn once(listed: &[(Place, &str)], report: &mut Report) {
    for (at, (place, name)) in listed.iter().enumerate() {
        if listed[..at].iter().any(|(_, earlier)| earlier == name) {
            report.refuse(place.clone(), format!("{name:?} is there twice"));
        }
    }
}

/// Places of the limits that these names mean. One that is named twice would count twice.
pub(super) fn limits_of(
    names: &Spanned<NamesDocument>,
    known: &[&str],
    report: &mut Report,
) -> Vec<usize> {
    let mut limits = Vec::new();
    let listed = names_of(names);
    if listed.len() > 1 && listed.iter().any(|(_, name)| *name == "none") {
        report.refuse(names.span(), "\"none\" stands alone: the route has no limits");
    }
    for (place, name) in listed.into_iter().filter(|(_, name)| *name != "none") {
        let Some(limit) = find(place.clone(), name, known, "limits", report) else { continue };
        if limits.contains(&limit) {
            report.refuse(place, "is there twice");
        }
        limits.push(limit);
    }
    limits
}

pub(super) fn optional(
    written: Option<&Text>,
    known: &[&str],
    table: &str,
    default: Option<usize>,
    report: &mut Report,
) -> Option<usize> {
    match written {
        None => default,
        Some(name) if name.get_ref() == "none" => None,
        Some(name) => find(name.span().into(), name.get_ref(), known, table, report),
    }
}

/// Index of the table that is named.
pub(super) fn find(
    place: Place,
    name: &str,
    known: &[&str],
    table: &str,
    report: &mut Report,
) -> Option<usize> {
    let found = known.iter().position(|other| *other == name);
    if found.is_none() {
        let message = match table {
            "upstream" => format!("there is no upstream named {name:?}"),
            _ => format!("there is no [{table}.{name}]"),
        };
        let nearest = known.iter().min_by_key(|other| distance(name, other));
        match nearest {
            None if table == "upstream" => report.refuse(place, message),
            None => report.refuse_with(place, message, format!("define [{table}.{name}]")),
            Some(nearest) if distance(name, nearest) <= 2 => {
                report.refuse_with(place, message, format!("did you mean {nearest:?}?"));
            }
            Some(_) => {
                report.refuse_with(place, message, format!("there are: {}", known.join(", ")));
            }
        }
    }
    found
}
