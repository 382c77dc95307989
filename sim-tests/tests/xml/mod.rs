//! Just enough XML to say whether a picture is well-formed: elements, attributes in double quotes, three entities.

use std::collections::BTreeMap;

/// An element, in the order in which they begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: BTreeMap<String, String>,
    /// What stands in it directly.
    pub(crate) text: String,
}

/// All elements of a document, or what is wrong with it.
pub(crate) fn elements(document: &str) -> Result<Vec<Element>, String> {
    let mut elements: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut rest = document;
    while let Some(at) = rest.find('<') {
        let text = unescaped(&rest[..at])?;
        match open.last() {
            Some(&inner) => elements[inner].text += &text,
            None if text.trim().is_empty() && (elements.is_empty() || rest[at..].is_empty()) => {}
            None => return Err(format!("{text:?} is in no element")),
        }
        let end = tag_end(&rest[at..])?;
        let tag = &rest[at + 1..at + end];
        rest = &rest[at + end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let inner = open
                .pop()
                .ok_or_else(|| format!("</{name}> ends nothing"))?;
            if elements[inner].name != name {
                return Err(format!("</{name}> ends <{}>", elements[inner].name));
            }
            continue;
        }
        let (tag, is_whole) = match tag.strip_suffix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        if open.is_empty() && !elements.is_empty() {
            return Err(format!("a second root: <{tag}>"));
        }
        if !is_whole {
            open.push(elements.len());
        }
        elements.push(element(tag)?);
    }
    match (open.last(), rest.trim()) {
        (None, "") => Ok(elements),
        (None, rest) => Err(format!("{rest:?} comes after the end")),
        (Some(&inner), _) => Err(format!("<{}> does not end", elements[inner].name)),
    }
}

/// Where the tag that begins here ends; what is quoted may hold anything but quotes and `<`.
fn tag_end(text: &str) -> Result<usize, String> {
    let mut is_quoted = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            '"' => is_quoted = !is_quoted,
            '>' if !is_quoted => return Ok(at),
            '<' => break,
            _ => {}
        }
    }
    let shown: String = text.chars().take(60).collect();
    Err(format!("a tag does not end: {shown}"))
}

fn element(tag: &str) -> Result<Element, String> {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    let mut element = Element {
        name: name.to_owned(),
        ..Element::default()
    };
    if name.is_empty() || !name.chars().all(char::is_alphanumeric) {
        return Err(format!("<{tag}> has no name"));
    }
    while !rest.trim().is_empty() {
        let wrong = || format!("no attribute: {rest:?} in <{tag}>");
        let (key, after) = rest.trim_start().split_once("=\"").ok_or_else(wrong)?;
        let (value, after) = after.split_once('"').ok_or_else(wrong)?;
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '-';
        if !key.chars().all(is_name) {
            return Err(wrong());
        }
        let before = element.attributes.insert(key.to_owned(), unescaped(value)?);
        if before.is_some() {
            return Err(format!("{key} stands twice in <{tag}>"));
        }
        if !after.is_empty() && !after.starts_with(' ') {
            return Err(wrong());
        }
        rest = after;
    }
    Ok(element)
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut parts = text.split('&');
    out += parts.next().unwrap_or_default();
    for part in parts {
        let known = [("amp;", '&'), ("lt;", '<'), ("gt;", '>')];
        let known = known
            .iter()
            .find_map(|(name, is)| Some((part.strip_prefix(name)?, is)));
        let (rest, is) = known.ok_or_else(|| format!("&{part} is no entity"))?;
        out.push(*is);
        out += rest;
    }
    Ok(out)
}
