//! Names in routes -> indices of the tables they name, with what to write where there is none.

use toml::Spanned;

use super::super::{
    document::{Tables, Text, shapes::NamesDocument},
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
    known: &Known<'_>,
    report: &mut Report,
) -> Vec<usize> {
    let mut limits = Vec::new();
    let listed = names_of(names);
    if listed.len() > 1 && listed.iter().any(|(_, name)| *name == "none") {
        report.refuse(names.span(), "\"none\" stands alone: the route has no limits");
    }
    for (place, name) in listed.into_iter().filter(|(_, name)| *name != "none") {
        let Some(limit) = known.find(place.clone(), name, report) else { continue };
        if limits.contains(&limit) {
            report.refuse(place, "is there twice");
        }
        limits.push(limit);
    }
    limits
}

pub(super) fn optional(
    written: Option<&Text>,
    known: &Known<'_>,
    default: Option<usize>,
    report: &mut Report,
) -> Option<usize> {
    match written {
        None => default,
        Some(name) if name.get_ref() == "none" => None,
        Some(name) => known.find(name.span().into(), name.get_ref(), report),
    }
}

/// What can be named.
pub(super) struct Known<'a> {
    /// The section.
    pub(super) table: &'static str,
    /// Those that are well, in order.
    pub(super) checked: Vec<&'a str>,
    /// Those that are written, well or not.
    pub(super) written: Vec<&'a str>,
}

impl<'a> Known<'a> {
    /// Tables of a section.
    pub(super) fn new<T>(
        table: &'static str,
        checked: impl Iterator<Item = &'a String>,
        written: &'a Tables<T>,
    ) -> Self {
        Self {
            table,
            checked: checked.map(String::as_str).collect(),
            written: written.keys().map(|name| name.get_ref().as_str()).collect(),
        }
    }

    /// Index of the table that is named. One that is itself wrong is there all the same: its own
    /// error says what to do.
    pub(super) fn find(&self, place: Place, name: &str, report: &mut Report) -> Option<usize> {
        let Self { table, checked, written } = self;
        let found = checked.iter().position(|other| *other == name);
        if found.is_some() || written.contains(&name) {
            return found;
        }
        let message = match *table {
            "upstream" => format!("there is no upstream named {name:?}"),
            _ => format!("there is no [{table}.{name}]"),
        };
        let nearest = checked.iter().min_by_key(|other| distance(name, other));
        match nearest {
            None if *table == "upstream" => report.refuse(place, message),
            None => report.refuse_with(place, message, format!("define [{table}.{name}]")),
            Some(nearest) if distance(name, nearest) <= 2 => {
                report.refuse_with(place, message, format!("did you mean {nearest:?}?"));
            }
            Some(_) => {
                report.refuse_with(place, message, format!("there are: {}", checked.join(", ")));
            }
        }
        None
    }
}
