package config

// checkOwners reports users and groups that the service would have a right over.
func (p *parsed) checkOwners() {
	if s := p.service.Sandbox; s.SeesOthers() && len(s.Capabilities) > 0 {
		p.addError(p.given["sandbox.capabilities"].at, "sandbox.capabilities", "with users or groups they could be a right over the files and processes of these",
			"leave one of the two away")
	}
}
