//! A policy of the packet path as tests write it: settings, services, ports.

use limiter_common::{
    maps::SERVICE_COUNT,
    ports::{PORT_WORDS, PortFacts, port_word},
    settings::{ServiceSettings, Settings},
};

/// Everything that one word switches.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The settings.
    pub settings: Settings,
    /// Services by number, the first is none.
    pub services: Vec<ServiceSettings>,
    /// What is known of ports, see [`port_word`].
    pub ports: Vec<u64>,
}

impl Policy {
    /// Without services, and no port is known.
    pub fn new(settings: Settings) -> Self {
        let services = vec![ServiceSettings::default(); SERVICE_COUNT as usize];
        Self { settings, services, ports: vec![0; PORT_WORDS as usize] }
    }

    /// With what is known of one port.
    #[must_use]
    pub fn port(mut self, is_udp: bool, port: u16, facts: PortFacts) -> Self {
        let word = &mut self.ports[port_word(is_udp, port) as usize];
        *word = facts.put(*word, port);
        self
    }

    /// With a service.
    #[must_use]
    pub fn service(mut self, number: u32, service: ServiceSettings) -> Self {
        self.services[number as usize] = service;
        self
    }
}
