package spawn

func (s *stage) reaper() error { return &StageError{Step: "init", Cure: "not yet"} }
